// Sentence -> text features -> image embedding -> image, by the three graphs of `export onnx` in
// onnxruntime-web. Arrays are flat; comments give shapes: N images, D embedding, Z latent.

import { normal } from "./philox.js";
import { Tokenizer } from "./tokenizer.js";

const json = async (name) => (await file(name)).json();
async function file(name) {
  const answer = await fetch(new URL(name, self.location));
  if (!answer.ok) throw new Error(`${name} is missing (${answer.status})`);
  return answer;
}

// a file of onnxruntime-web, which the browser refuses where it is not the pinned one
async function checked(place, name, integrity) {
  const failed = new Error(`onnxruntime-web: ${name} at ${place} is missing, or is not the file that this page was made with`);
  const answer = await fetch(new URL(name, place), { integrity }).catch(() => { throw failed; });
  if (!answer.ok) throw failed;
  return answer.arrayBuffer();
}

const asModule = (content) => URL.createObjectURL(new Blob([content], { type: "text/javascript" }));

// WebGPU where there is a device, else WebAssembly, of one thread: more need headers of the server
async function runtime({ runtime: base, runtime_integrity: hashes }) {
  const adapter = await self.navigator.gpu?.requestAdapter().catch(() => null);
  const place = new URL(base, self.location);
  const names = adapter
    ? ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"]
    : ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
  const [main, mjs, wasm] = await Promise.all(names.map((name) => checked(place, name, hashes[name])));
  const ort = await import(asModule(main));
  ort.env.wasm.wasmPaths = { mjs: asModule(mjs) };
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return { ort, device: adapter ? "webgpu" : "wasm" };
}

export class Model {
  static async load() {
    const [manifest, tokenizer] = await Promise.all(["model/manifest.json", "model/tokenizer.json"].map(json));
    const { ort, device } = await runtime(manifest);
    const model = new Model();
    Object.assign(model, { manifest, ort, device, sessions: {}, texts: new Map(), last: {} });
    model.tokenizer = new Tokenizer(tokenizer);
    for (const [name, part] of Object.entries(manifest.parts)) {
      const content = await (await file(`model/${part.file}`)).arrayBuffer();
      model.sessions[name] = await model.session(name, content);
    }
    await model.images({ prompt: "a", truncation: 1 }, [0]); // the first run of a graph is slow
    return model;
  }

  // the graph of convolutions gains by a GPU, the small ones do not
  async session(name, content) {
    if (this.device === "webgpu" && name === "generator") {
      try {
        return await this.ort.InferenceSession.create(content, { executionProviders: ["webgpu"] });
      } catch (error) {
        console.warn(`WebGPU has refused: ${error.message}`);
        this.device = "wasm";
      }
    }
    return this.ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  }

  // values by name: [data, dims]
  async run(name, values) {
    const feeds = {};
    for (const [key, [data, dims]] of Object.entries(values)) {
      const kind = data instanceof BigInt64Array ? "int64" : "float32";
      feeds[key] = new this.ort.Tensor(kind, data, dims);
    }
    return this.sessions[name].run(feeds);
  }

  // [embedding, states, length] of a sentence, each as [data, dims of one row]
  async encode(text) {
    if (!text?.trim()) throw new Error("A sentence is empty. Write one, such as: a red apple");
    if (!this.texts.has(text)) {
      const ids = BigInt64Array.from(this.tokenizer.encode(text), BigInt);
      const found = await this.run("text", { ids: [ids, [1, ids.length]] });
      const outputs = this.manifest.parts.text.outputs;
      this.texts.set(text, outputs.map((name) => [found[name].data, found[name].dims.slice(1)]));
    }
    return this.texts.get(text);
  }

  // [N, D]
  async embed({ prompt, negative, guidance = 1 }, seeds) {
    const key = JSON.stringify([prompt, negative, guidance, seeds]);
    if (this.last.key !== key) this.last = { key, value: await this.sample(prompt, negative, guidance, seeds) };
    return this.last.value;
  }

  async sample(prompt, negative, guidance, seeds) {
    const own = await this.encode(prompt);
    const prior = this.manifest.parts.prior;
    if (!prior) {
      if (negative) throw new Error("This model has no prior, through which a negative sentence acts.");
      return repeat(own[0][0], seeds.length);
    }
    const away = negative ? await this.encode(negative) : own.map(([data, dims]) => [data.map((x) => (typeof x === "bigint" ? 0n : 0)), dims]);
    const count = seeds.length;
    const [{ length: dim }] = own[0];
    const noise = new Float32Array(count * prior.noise.length * dim);
    seeds.forEach((seed, n) => prior.noise.forEach(({ philox_key }, k) => {
      noise.set(normal(seed, dim, philox_key), (n * prior.noise.length + k) * dim);
    }));
    const names = prior.inputs.map(({ name }) => name);
    const given = [...own, ...away].map(([data, dims]) => [repeat(data, count), [count, ...dims]]);
    given.push([noise, [count, prior.noise.length, dim]]);
    given.push([new Float32Array(count).fill(guidance), [count]]);
    const found = await this.run("prior", Object.fromEntries(names.map((name, n) => [name, given[n]])));
    return found[prior.outputs[0]].data;
  }

  latents(seeds) {
    const { z, inputs } = this.manifest.parts.generator;
    const dim = inputs[1].shape[1];
    const rows = new Float32Array(seeds.length * dim);
    seeds.forEach((seed, n) => rows.set(normal(seed, dim, z.philox_key), n * dim));
    return rows;
  }

  // embeddings [N, D] and z [N, Z], flat -> N images, each [R, R, 3] uint8
  async render(embedding, z, truncation, count) {
    const values = {
      image_embedding: [embedding, [count, embedding.length / count]],
      z: [z, [count, z.length / count]],
      truncation: [new Float32Array(count).fill(truncation), [count]],
    };
    const data = (await this.run("generator", values)).image.data;
    const pixels = this.manifest.resolution ** 2;
    return Array.from({ length: count }, (_, n) => {
      const image = new Uint8ClampedArray(3 * pixels); // which rounds and clamps
      for (let c = 0; c < 3; c++) {
        const from = (3 * n + c) * pixels;
        for (let p = 0; p < pixels; p++) image[3 * p + c] = data[from + p] * 127.5 + 127.5;
      }
      return image;
    });
  }

  async images(body, seeds) {
    const embedding = await this.embed(body, seeds);
    return this.render(embedding, this.latents(seeds), body.truncation, seeds.length);
  }

  // as `interpolate`: embedding and z on great circles
  async interpolate({ a, b, num_images: count, truncation }) {
    const ends = [];
    for (const { prompt, seed } of [a, b]) {
      ends.push([Float32Array.from(await this.embed({ prompt }, [seed])), this.latents([seed])]);
    }
    const times = Array.from({ length: count }, (_, n) => n / (count - 1));
    const [embedding, z] = [0, 1].map((what) => joined(times.map((t) => slerp(ends[0][what], ends[1][what], t))));
    return this.render(embedding, z, truncation, count);
  }
}

function joined(rows) {
  const all = new Float32Array(rows.length * rows[0].length);
  rows.forEach((row, n) => all.set(row, n * row.length));
  return all;
}

function repeat(data, count) {
  const all = new data.constructor(count * data.length);
  for (let n = 0; n < count; n++) all.set(data, n * data.length);
  return all;
}

const norm = (x) => Math.hypot(...x);

// directions on the great circle, lengths on a line
function slerp(a, b, t) {
  const [x, y] = [a, b].map((row) => Float64Array.from(row, (value) => value / norm(row)));
  const omega = 2 * Math.atan2(norm(x.map((v, n) => v - y[n])), norm(x.map((v, n) => v + y[n])));
  const sine = Math.sin(omega);
  const straight = sine < 1e-6;
  const onX = straight ? 1 - t : Math.sin((1 - t) * omega) / sine;
  const onY = straight ? t : Math.sin(t * omega) / sine;
  const direction = x.map((v, n) => onX * v + onY * y[n]);
  const scale = ((1 - t) * norm(a) + t * norm(b)) / norm(direction);
  return direction.map((v) => v * scale);
}
