// Random numbers from a counter, Philox 4x32-10 (Salmon et al., SC 2011): those of Python, to rounding.

// the high and the low word of a product of two 32-bit words
function product(a, b) {
  const [al, ah, bl, bh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = ah * bl + Math.floor((al * bl) / 65536);
  const other = al * bh + (middle % 65536);
  return [ah * bh + Math.floor(middle / 65536) + Math.floor(other / 65536), Math.imul(a, b) >>> 0];
}

function block(number, row, key) {
  let [c0, c1, c2, c3] = [number, 0, ...row];
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [ha, la] = product(c0, 0xd2511f53);
    const [hb, lb] = product(c2, 0xcd9e8d57);
    [c0, c1, c2, c3] = [(hb ^ c1 ^ k0) >>> 0, lb, (ha ^ c3 ^ k1) >>> 0, la];
    [k0, k1] = [(k0 + 0x9e3779b9) >>> 0, (k1 + 0xbb67ae85) >>> 0];
  }
  return [c0, c1, c2, c3];
}

const words = (value) => {
  const bits = BigInt.asUintN(64, BigInt(value));
  return [Number(bits & 0xffffffffn), Number(bits >> 32n)];
};

// `count` standard normal numbers of a seed, a whole number; `key` is 64 bits in decimal
export function normal(seed, count, key) {
  const found = new Float32Array(4 * Math.ceil(count / 4));
  const [row, keys] = [words(seed), words(key)];
  for (let at = 0; at < found.length; at += 4) {
    const x = block(at / 4, row, keys);
    for (const pair of [0, 2]) {
      const uniform = Math.fround(Math.fround(x[pair]) + 0.5) * 2 ** -32;
      const radius = Math.sqrt(-2 * Math.log(uniform));
      const angle = Math.fround(x[pair + 1] | 0) * (Math.PI * 2 ** -31);
      found[at + pair] = radius * Math.cos(angle);
      found[at + pair + 1] = radius * Math.sin(angle);
    }
  }
  return found.subarray(0, count);
}
