"use strict";
// Reads the elements of a page that packing.py has written.
const damaged = () => new Error("a packed part of this file is damaged");

async function unpack(id) {
  if (!window.DecompressionStream) throw new Error("this browser has no DecompressionStream, which browsers have had since 2023");
  const [method, size, count, digits = ""] = document.getElementById(id).textContent.split(" "), bytes = new Uint8Array(+count || 0);
  // 13 bits in two digits of base 91, which are ASCII from "!" on without & (38), < (60) and \ (92).
  const digit = (code) => code - 33 - (code > 38) - (code > 60) - (code > 92);
  for (let place = 0, at = 0, bits = 0, kept = 0; at < bytes.length && place < digits.length; place += 2) {
    bits = (bits & 255) << 13 | digit(digits.charCodeAt(place)) * 91 + digit(digits.charCodeAt(place + 1));
    for (kept += 13; kept >= 8 && at < bytes.length; at++) bytes[at] = bits >> (kept -= 8);
  }
  if (method === "lzma") return new TextDecoder().decode(decompressed(bytes, +size));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  // The browser's own message would be of a network, which is not used.
  return new Response(stream).text().catch(() => { throw damaged(); });
}

// Decodes LZMA as its specification describes it (7-zip.org/sdk.html, lzma-specification.txt), with the properties of packing.py:
// lc = 3 bits of the byte before choose the probabilities of a byte, lp = 0, and pb = 2 bits of the place those of the rest.
// Returns `size` bytes; throws where the content is damaged.
const END = 0xffffffff;

function decompressed(content, size) {
  const out = new Uint8Array(size), probabilities = (count) => new Uint16Array(count).fill(1024);
  let read = 5, range = 0xffffffff, code = 0, at = 0;
  for (let place = 1; place < 5; place++) code = (code << 8 | content[place]) >>> 0;

  const next = () => {
    if (range < 0x1000000) {
      if (read > content.length + 8) throw damaged();
      range = range << 8 >>> 0;
      code = (code << 8 | content[read++]) >>> 0;
    }
  };
  const bit = (model, place) => {
    const bound = (range >>> 11) * model[place];
    let found = 0;
    if (code < bound) {
      range = bound;
      model[place] += 2048 - model[place] >> 5;
    } else {
      range -= bound;
      code -= bound;
      model[place] -= model[place] >> 5;
      found = 1;
    }
    next();
    return found;
  };
  const tree = (model, bits, start = 0) => {
    let node = 1;
    for (let depth = 0; depth < bits; depth++) node = node << 1 | bit(model, start + node);
    return node - (1 << bits);
  };
  const reversed = (model, bits, start = 0) => {
    let node = 1, value = 0;
    for (let depth = 0; depth < bits; depth++) {
      const found = bit(model, start + node);
      node = node << 1 | found;
      value |= found << depth;
    }
    return value;
  };
  const direct = (bits) => {
    let value = 0;
    for (let depth = 0; depth < bits; depth++) {
      range >>>= 1;
      const found = code >= range ? 1 : 0;
      if (found) code -= range;
      value = value << 1 | found;
      next();
    }
    return value;
  };

  const lengths = () => ({choice: probabilities(2), low: probabilities(4 << 3), middle: probabilities(4 << 3), high: probabilities(256)});
  const length = (model, position) => {
    if (!bit(model.choice, 0)) return 2 + tree(model.low, 3, position << 3);
    return bit(model.choice, 1) ? 18 + tree(model.high, 8) : 10 + tree(model.middle, 3, position << 3);
  };
  const literals = probabilities(8 * 0x300), isMatch = probabilities(12 << 2), isRepeated = probabilities(12);
  const isSecond = probabilities(12), isThird = probabilities(12), isFourth = probabilities(12), isLong = probabilities(12 << 2);
  const slots = probabilities(4 << 6), near = probabilities(128), aligned = probabilities(16);
  const ofMatch = lengths(), ofRepeated = lengths();
  const distance = (count) => {
    const slot = tree(slots, 6, Math.min(count - 2, 3) << 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1, base = (2 | slot & 1) << bits;
    return (slot < 14 ? base + reversed(near, bits, base - slot) : base + (direct(bits - 4) << 4) + reversed(aligned, 4)) >>> 0;
  };

  let state = 0, last = [0, 0, 0, 0];
  for (;;) {
    const position = at & 3;
    if (!bit(isMatch, state << 2 | position)) {
      const start = 0x300 * (at ? out[at - 1] >> 5 : 0);
      let node = 1;
      if (at === size) throw damaged();
      if (state >= 7) {
        // After a match the byte differs from the one at the last distance, whose bits are the context until the first that differs.
        for (let expected = out[at - last[0] - 1] << 1, same = true; same && node < 256; expected <<= 1) {
          const guess = expected >> 8 & 1, found = bit(literals, start + (1 + guess << 8) + node);
          node = node << 1 | found;
          same = guess === found;
        }
      }
      while (node < 256) node = node << 1 | bit(literals, start + node);
      out[at++] = node;
      state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
      continue;
    }
    let count;
    if (!bit(isRepeated, state)) {
      count = length(ofMatch, position);
      last = [distance(count), last[0], last[1], last[2]];
      if (last[0] === END) break;
      state = state < 7 ? 7 : 10;
    } else {
      const chosen = !bit(isSecond, state) ? 0 : !bit(isThird, state) ? 1 : 2 + bit(isFourth, state);
      const single = !chosen && !bit(isLong, state << 2 | position);
      last = [last[chosen], ...last.filter((_, place) => place !== chosen)];
      count = single ? 1 : length(ofRepeated, position);
      state = state >= 7 ? 11 : single ? 9 : 8;
    }
    if (last[0] >= at || at + count > size) throw damaged();
    for (const end = at + count; at < end; at++) out[at] = out[at - last[0] - 1];
  }
  if (at < size || code) throw damaged();
  return out;
}
