"""One run: built from its configuration, trained on one rank or many, evaluated, recorded and resumed."""
