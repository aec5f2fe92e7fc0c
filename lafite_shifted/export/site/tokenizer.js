// CLIP's byte-pair tokenizer, from tokenizer.json.

export class Tokenizer {
  constructor({ model, normalizer, pre_tokenizer, truncation, added_tokens }) {
    this.vocab = model.vocab;
    this.ranks = new Map(model.merges.map((pair, rank) => [pair, rank]));
    const replacements = normalizer.normalizers.filter(({ type }) => type === "Replace");
    this.replacements = replacements.map(({ pattern, content }) => [new RegExp(pattern.Regex, "gu"), content]);
    this.words = new RegExp(pre_tokenizer.pretokenizers[0].pattern.Regex, "gu");
    this.length = truncation.max_length;
    [this.start, this.end] = added_tokens.map(({ id }) => id);
    this.letters = letters();
  }

  // ids, padded with 0 to the context length
  encode(text) {
    const ids = [this.start];
    for (const word of this.normalised(text).match(this.words) ?? []) ids.push(...this.parts(word));
    const kept = [...ids.slice(0, this.length - 1), this.end];
    return Array.from({ length: this.length }, (_, n) => kept[n] ?? 0);
  }

  normalised(text) {
    let clean = text.replace(/[\uff01-\uffef]+/g, (wide) => wide.normalize("NFKC")).normalize("NFC");
    for (const [pattern, content] of this.replacements) clean = clean.replace(pattern, content);
    return clean.trim().toLowerCase();
  }

  // of a word: its bytes as letters, the pair of the lowest rank joined until there is none
  parts(word) {
    const symbols = Array.from(new TextEncoder().encode(word), (byte) => this.letters[byte]);
    symbols[symbols.length - 1] += "</w>";
    for (;;) {
      let [best, lowest] = ["", Infinity];
      for (let n = 0; n + 1 < symbols.length; n++) {
        const pair = `${symbols[n]} ${symbols[n + 1]}`;
        const rank = this.ranks.get(pair) ?? Infinity;
        if (rank < lowest) [best, lowest] = [pair, rank];
      }
      if (!best) return symbols.map((symbol) => this.vocab[symbol]);
      for (let n = 0; n + 1 < symbols.length; n++) {
        if (`${symbols[n]} ${symbols[n + 1]}` === best) symbols.splice(n, 2, symbols[n] + symbols[n + 1]);
      }
    }
  }
}

// bytes that are no visible Latin-1 character stand for those from U+0100 on
function letters() {
  const visible = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(visible(byte) ? byte : next++));
}
