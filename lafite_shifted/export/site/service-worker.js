"use strict";
// Keeps every file of the site when it is first fetched: afterwards it works without the network.

const CACHE = "lafite-shifted-$VERSION";
const SHELL = ["./", "page.css", "page.js", "images.js", "backend.js", "worker.js", "model.js", "philox.js", "tokenizer.js", "png.js"];

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)));
});

addEventListener("activate", (event) => {
  const tidy = caches.keys().then((names) =>
    Promise.all(names.filter((name) => name.startsWith("lafite-shifted-") && name !== CACHE)
      .map((name) => caches.delete(name))));
  event.waitUntil(tidy.then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  const page = new URL(request.url).pathname.endsWith("/index.html"); // kept under its folder's name
  const kept = await cache.match(page ? "./" : request, { ignoreSearch: true });
  if (kept) return kept;
  const found = await fetch(request);
  if (found.ok) await cache.put(request, found.clone());
  return found;
}
