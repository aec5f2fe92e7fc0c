// PNG files that say how they were made, as Python writes them.

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function chunk(kind, content) {
  const all = new Uint8Array(content.length + 12);
  const view = new DataView(all.buffer);
  view.setUint32(0, content.length);
  all.set(new TextEncoder().encode(kind), 4);
  all.set(content, 8);
  let crc = 0xffffffff;
  for (const byte of all.subarray(4, -4)) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(all.length - 4, ~crc);
  return all;
}

// `image` [size, size, 3] uint8, flat; `metadata`: texts by name
export async function png(image, size, metadata) {
  const rows = new Uint8Array(size * (3 * size + 1)); // each begins with its filter, 0
  for (let y = 0; y < size; y++) {
    rows.set(image.subarray(3 * size * y, 3 * size * (y + 1)), y * (3 * size + 1) + 1);
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, size);
  new DataView(header.buffer).setUint32(4, size);
  header.set([8, 2], 8);
  const texts = Object.entries(metadata).map(([name, value]) =>
    chunk("iTXt", new TextEncoder().encode(`${name}\0\0\0\0\0${value}`)));
  texts.unshift(chunk("tEXt", new TextEncoder().encode("Software\0lafite-shifted")));
  const body = new Uint8Array(await new Response(stream).arrayBuffer());
  const mark = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const parts = [mark, chunk("IHDR", header), ...texts, chunk("IDAT", body), chunk("IEND", new Uint8Array())];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

export const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
