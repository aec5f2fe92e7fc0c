"use strict";
// Images on the page: what each tells, its download, where else it can be used, and the history.

// --- files of a form are chosen by its user, by the history, or in the dialog "Use in"

function setFiles(input, files) {
  const held = new DataTransfer();
  for (const file of files) held.items.add(file);
  input.files = held.files;
}

const source = ({ png, webp }) =>
  png ? `data:image/png;base64,${png}` : `data:image/webp;base64,${webp}`;

const fileName = ({ png, metadata }) =>
  `${(metadata.prompt ?? metadata.to ?? metadata.stops ?? "image").replace(/[^\p{L}\p{N}]+/gu, "-")}-${
    metadata.strength ?? metadata.step ?? metadata.seed ?? 0}.${png ? "png" : "webp"}`;

const fileOf = (image) =>
  new File([Uint8Array.from(atob(image.png), (one) => one.charCodeAt(0))], fileName(image), { type: "image/png" });

// --- an image in another tab

const dialog = $("#use");
const places = all("input[type=file]").map((input) => {
  const tab = $(`#${input.form.getAttribute("aria-labelledby")}`);
  const part = input.closest("fieldset")?.querySelector("legend").textContent.toLowerCase();
  return { input, tab, name: part ? `${tab.textContent}: ${part}` : tab.textContent };
});
let used = null; // the image that the dialog is about

function use({ input, tab, name }) {
  dialog.close();
  setFiles(input, [fileOf(used)]);
  const { source: shows } = input.form.elements; // what an edit leads away from
  if (shows && used.metadata.prompt) shows.value = used.metadata.prompt;
  choose(tab);
  input.focus();
  status(`The image is chosen in ${name}.`);
}

function button(text, onClick) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.addEventListener("click", onClick);
  return made;
}

for (const place of places) {
  const item = document.createElement("li");
  item.append(button(place.name, () => use(place)));
  $("ul", dialog).append(item);
}
dialog.append(button("Cancel", () => dialog.close()));
if (!places.length) dialog.remove(); // a backend that takes no image

function useButton(image, told) {
  const made = button("Use in …", () => {
    used = image;
    dialog.showModal();
  });
  made.setAttribute("aria-label", `Use in …: the image of ${told}`);
  made.setAttribute("aria-haspopup", "dialog");
  return made;
}

// --- an image and its words

function figure(made) {
  const { png, metadata } = made;
  const item = document.createElement("li");
  const box = document.createElement("figure");
  const image = new Image();
  image.src = source(made);
  const words = Object.entries(metadata).filter(([name, value]) => name !== "model" && value);
  const told = words.map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
  image.alt = told;
  const link = document.createElement("a");
  link.href = image.src;
  link.download = fileName(made);
  link.textContent = "Download";
  link.setAttribute("aria-label", `Download the image of ${told}`);
  const caption = document.createElement("figcaption");
  caption.append(told, " ", link);
  box.append(image, caption);
  if (png && places.length) box.append(useButton(made, told));
  item.append(box);
  return item;
}

// --- history: what was made in this page, until it is closed; the oldest go where it has too many

const HISTORY = { entries: 24, bytes: 64 * 2 ** 20 }; // at most; bytes of images and uploads together
const TELLING = ["prompt", "target", "image", "a_image", "a_prompt", "stops"]; // what was asked
const entries = []; // the newest first

// all fields of a form with their values; of a file input its files
const valuesOf = (form) =>
  all("input, textarea", form).map((input) => [input, input.type === "file" ? [...input.files] : input.value]);

function heldBytes() {
  const files = new Set(entries.flatMap(({ values }) => values.map(([, value]) => value)).flat()
    .filter((value) => value instanceof File)); // several entries may have one
  const images = entries.flatMap((entry) => entry.images);
  return [...files].reduce((sum, file) => sum + file.size, 0)
    + images.reduce((sum, image) => sum + (image.png ?? image.webp).length, 0);
}

function record(kind, form, values, images) {
  const given = new Map(values.map(([input, value]) => [input.name, Array.isArray(value) ? value[0]?.name : value]));
  const small = new Image();
  small.src = source(images[0]);
  small.alt = "";
  const back = button("", () => {
    running?.abort();
    running = null;
    choose($(`#tab-${kind}`));
    for (const [input, value] of values) {
      if (Array.isArray(value)) setFiles(input, value);
      else input.value = value;
    }
    all("input[type=range]", form).forEach(tell);
    $("#images").replaceChildren(...images.map(figure));
    status(`${counted(images.length)} from the history`);
  });
  back.append(small, `${kind}: ${TELLING.map((name) => given.get(name)).find(Boolean) ?? ""}`);
  const item = document.createElement("li");
  item.append(back);
  $("#history").prepend(item);
  entries.unshift({ item, values, images });
  while (entries.length > HISTORY.entries || (entries.length > 1 && heldBytes() > HISTORY.bytes)) {
    entries.pop().item.remove();
  }
}
