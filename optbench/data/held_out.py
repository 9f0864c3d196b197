"""The number of examples held out of training, for validation or for splits that the data lack. Imports no torch."""

from dataclasses import dataclass

from optbench.errors import UserError


def check_held_out(examples: int, taken: int, split: str = "validation") -> None:
    """Raise UserError unless taking ``taken`` of the training ``examples`` for ``split`` leaves some for training."""
    if examples < 2:
        raise UserError(f"the training set has {examples} examples; needs two, one of them for {split}")
    if not 1 <= taken < examples:
        raise UserError(f"dataset.{split}={taken}: must be in 1 .. {examples - 1}, there are {examples} examples")


@dataclass(frozen=True)
class HeldOut:
    """The numbers of training examples that become the test and validation splits of data without them; None: 10 %.

    The test split is taken first, and the validation split from the rest.
    """

    test: int | None = None
    validation: int | None = None

    def sizes(self, examples: int, has_test: bool, has_validation: bool) -> tuple[int, int]:
        """The numbers of training ``examples`` taken for (test, validation); 0 for a split that the data have.

        Raises UserError if none are left for training, and for a number if the data have such a split.
        """
        taken = []
        for split, wanted, has in (("test", self.test, has_test), ("validation", self.validation, has_validation)):
            if has and wanted is not None:
                raise UserError(
                    f"dataset.{split}={wanted}: the data have a {split} split of their own; accepted: null, which takes it"
                )
            count = 0 if has else max(examples // 10, 1) if wanted is None else wanted
            if not has:
                check_held_out(examples, count, split)
            taken.append(count)
            examples -= count
        return taken[0], taken[1]
