// Answers the page: one request after the other; one that was cancelled ends after its image.

import { Model } from "./model.js";
import { base64, png } from "./png.js";

const cancelled = new Set();
const loaded = Model.load();
let turn = Promise.resolve();

onmessage = ({ data }) => {
  if (data.kind === "cancel") return cancelled.add(data.id);
  turn = turn.then(() => answer(data));
};

async function answer({ id, kind, body, stream }) {
  try {
    await new Promise((done) => setTimeout(done)); // a cancellation may have come
    if (cancelled.delete(id)) return;
    const model = await loaded;
    postMessage({ id, result: await work(model, kind, { id, body, stream }) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
}

async function work(model, kind, { id, body, stream }) {
  if (kind === "about") {
    const { model: hash, resolution, parts } = model.manifest;
    return { model: hash, resolution, has_prior: Boolean(parts.prior), limits: { images: 16 },
      runs_on: model.device };
  }
  if (kind === "interpolate") {
    const images = await model.interpolate(body);
    const told = (place) => ({ step: `${place + 1} of ${images.length}` });
    return Promise.all(images.map((image, place) => made(model, image, told(place))));
  }
  const guidance = body.guidance;
  if (body.negative && guidance === 1) {
    throw new Error("A negative prompt acts through guidance, and guidance 1 is none. Give one above 1, such as 2.");
  }
  const seeds = body.seeds ?? Array.from({ length: body.num_images }, (_, n) => body.seed + n);
  const words = { prompt: body.prompt, truncation: String(body.truncation) };
  Object.assign(words, { guidance: String(guidance), negative: body.negative ?? "" });
  const images = [];
  for (const part of stream ? seeds.map((seed) => [seed]) : [seeds]) {
    const rendered = await model.images({ ...body, guidance }, part);
    for (const [n, image] of rendered.entries()) {
      const found = await made(model, image, { ...words, seed: String(part[n]) });
      if (stream) postMessage({ id, image: found });
      images.push(found);
    }
    await new Promise((done) => setTimeout(done));
    if (cancelled.delete(id)) break;
  }
  return images;
}

async function made(model, image, record) {
  const metadata = { ...record, model: model.manifest.model };
  return { png: base64(await png(image, model.manifest.resolution, metadata)), metadata };
}
