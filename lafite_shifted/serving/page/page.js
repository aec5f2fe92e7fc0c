"use strict";
// One page over a backend (backend.js): a request at a time, the newest wins; a slider asks again while it is dragged.
// What comes is shown, and kept in the history, by images.js.

const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const status = (text, error = false) => {
  $("#status").textContent = text;
  $("#status").classList.toggle("error", error);
};

// --- tabs

const panelOf = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
if (backend.kinds) { // one that cannot do all, and has no endpoints
  for (const tab of all("[role=tab]").filter((one) => !backend.kinds.includes(one.id.replace("tab-", "")))) {
    panelOf(tab).remove();
    tab.remove();
  }
  for (const name of backend.without) all(`[name=${name}]`).forEach((input) => input.closest("label").remove());
  $("footer").remove();
}
const tabs = all("[role=tab]");

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    panelOf(other).hidden = !chosen;
  }
  tab.focus();
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(tabs.at(to % tabs.length));
  });
});

// --- what a form asks for

// beyond 2^53 a script does not have every whole number: a seed would be another one
function exact(text) {
  const value = Number(text);
  if (Math.abs(value) <= Number.MAX_SAFE_INTEGER) return value;
  throw new Error(`${text} is too large for this page: the limit is ${Number.MAX_SAFE_INTEGER}.`);
}

const number = (form, name) => (form.elements[name] ? exact(form.elements[name].value) : null);

const uploads = new WeakMap(); // a file is read once, not for every move of a slider
async function upload(input) {
  const file = input?.files[0];
  if (!file) return null;
  if (!uploads.has(file)) {
    const reader = new FileReader();
    const read = new Promise((done, failed) => {
      reader.onload = () => done(reader.result.split(",", 2)[1]);
      reader.onerror = () => failed(reader.error);
    });
    reader.readAsDataURL(file);
    uploads.set(file, await read);
  }
  return uploads.get(file);
}

async function end(form, name) {
  const image = await upload(form.elements[`${name}_image`]);
  const seed = number(form, `${name}_seed`);
  return image ? { image, seed } : { prompt: form.elements[`${name}_prompt`].value, seed };
}

// a first seed, or a list such as 1,5,9 or 0-7: an image each
function seedsOf(form) {
  const text = form.elements.seed.value;
  if (/^\s*-?\d+\s*$/.test(text)) return { seed: exact(text), num_images: number(form, "num_images") };
  const seeds = text.split(",").flatMap((part) => {
    const [, first, last = first] = /^\s*(\d+)(?:\s*-\s*(\d+))?\s*$/.exec(part) ?? [];
    const count = exact(last) - exact(first) + 1;
    if (!(count > 0 && count < 1000)) throw new Error("Seeds are a number, or a list such as 1,5,9 or 0-7.");
    return Array.from({ length: count }, (_, place) => Number(first) + place);
  });
  const most = Number(form.elements.num_images.max);
  if (seeds.length > most) throw new Error(`${seeds.length} seeds: the limit is ${most} images.`);
  return { seeds };
}

const bodies = {
  generate: async (form) => ({
    prompt: form.elements.prompt.value,
    negative: form.elements.negative.value || null,
    ...seedsOf(form),
    steps: number(form, "steps"),
    guidance: number(form, "guidance"),
    truncation: number(form, "truncation"),
  }),
  variations: async (form) => ({
    image: await upload(form.elements.image),
    num_images: number(form, "num_images"),
    seed: number(form, "seed"),
    spread: number(form, "spread"),
    truncation: number(form, "truncation"),
  }),
  interpolate: async (form) => ({
    a: await end(form, "a"),
    b: await end(form, "b"),
    num_images: number(form, "num_images"),
    truncation: number(form, "truncation"),
  }),
  edit: async (form) => ({
    image: await upload(form.elements.image),
    source: form.elements.source.value,
    target: form.elements.target.value,
    strengths: [number(form, "strength")],
    seed: number(form, "seed"),
    project_steps: number(form, "project_steps"),
  }),
  "style-mix": async (form) => {
    const first = number(form, "first");
    const count = Number(form.elements.first.max) - first;
    return {
      a: await end(form, "a"),
      b: await end(form, "b"),
      layers: Array.from({ length: count }, (_, place) => first + place),
    };
  },
  guide: async (form) => ({
    prompt: form.elements.prompt.value,
    num_images: number(form, "num_images"),
    seed: number(form, "seed"),
    candidates: number(form, "candidates"),
    steps: number(form, "steps"),
    radius: number(form, "radius"),
  }),
  project: async (form) => ({
    image: await upload(form.elements.image),
    steps: number(form, "steps"),
    seed: number(form, "seed"),
  }),
  walk: async (form) => {
    const stops = form.elements.stops.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const count = stops.length === 1 ? number(form, "num_seeds") : 1;
    const first = number(form, "seed");
    return {
      stops,
      seeds: Array.from({ length: count }, (_, place) => first + place),
      frames: number(form, "frames"),
      fps: number(form, "fps"),
    };
  },
};

// --- asking, and showing what comes

let running = null;
const counted = (count) => `${count} image${count === 1 ? "" : "s"}`;

async function ask(kind, form, { remember }) {
  running?.abort();
  const mine = (running = new AbortController());
  if (remember) status("Working ...");
  const values = valuesOf(form); // now: fields may change until the images are there
  const begun = performance.now();
  // images appear as they come; while a slider moves, all at once
  const stream = kind === "generate" && remember;
  let count = 0;
  const onImage = (image) => {
    if (mine !== running) return;
    if (!count++) $("#images").replaceChildren();
    $("#images").append(figure(image));
  };
  try {
    const body = await bodies[kind](form);
    if (mine !== running) return;
    if (body.image === null) throw new Error("Choose an image first.");
    const images = await backend.ask(kind, body, { signal: mine.signal, onImage: stream ? onImage : null });
    if (mine !== running) return;
    if (!stream) $("#images").replaceChildren(...images.map(figure));
    status(`${counted(images.length)} in ${Math.round(performance.now() - begun)} ms`);
    if (remember && images.length) record(kind, form, values, images);
  } catch (error) {
    if (mine === running) status(error.message, true);
  }
}

// --- forms

const tell = (input) => { input.previousElementSibling.textContent = input.value; };
const { negative, guidance } = $("#panel-generate").elements;
negative.addEventListener("input", () => { // it acts through guidance, and 1 is none
  if (!negative.value || guidance.value !== "1") return;
  guidance.value = 2;
  tell(guidance);
});
for (const form of all("form")) {
  const kind = form.id.replace("panel-", "");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(kind, form, { remember: true });
  });
  for (const end of ["a", "b"]) { // of a sentence and an image the last one given counts
    const image = form.elements[`${end}_image`];
    if (image) form.elements[`${end}_prompt`].addEventListener("input", () => setFiles(image, []));
  }
  const live = whenFree(() => ask(kind, form, { remember: false }));
  for (const input of all("input[type=range]", form)) {
    tell(input);
    input.addEventListener("input", () => {
      tell(input);
      if (form.checkValidity()) live();
    });
  }
}

// at most one `work` at a time and one a frame; what comes meanwhile is done once, afterwards
function whenFree(work) {
  let busy = false;
  let again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        await new Promise(requestAnimationFrame);
        await work();
      }
    } finally {
      busy = false;
    }
  };
}

backend.about().then((told) => {
  const prior = told.has_prior ? "" : ", without a prior";
  const place = told.runs_on ? `, in this browser by ${told.runs_on}` : "";
  $("#about").textContent = `Model ${told.model}, ${told.resolution} pixels${prior}${place}.`;
  for (const input of all("input[name=num_images]")) input.max = told.limits.images;
  const first = $("#panel-style-mix input[name=first]");
  if (!first) return; // a backend without that edit
  first.max = told.layers;
  first.value = Math.ceil(told.layers / 2);
  tell(first);
}).catch((error) => status(error.message, true));
