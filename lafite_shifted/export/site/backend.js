"use strict";
// The page's backend without a server: the model runs in a worker of this page (worker.js).

const backend = (() => {
  const kinds = ["generate", "interpolate"]; // no image tower: nothing that takes an image
  const without = ["steps", "a_image", "b_image"]; // the prior's steps are built in
  const waiting = new Map();
  let last = 0;

  // everything is fetched through the service worker, which keeps it for the next time, offline
  async function keepFiles() {
    if (!navigator.serviceWorker) return;
    try {
      await navigator.serviceWorker.register("service-worker.js");
      if (navigator.serviceWorker.controller) return;
      await new Promise((done) => {
        navigator.serviceWorker.addEventListener("controllerchange", done, { once: true });
        setTimeout(done, 5000); // a forced reload has no controller
      });
    } catch (error) {
      console.warn(`Not kept for offline use: ${error.message}`);
    }
  }

  const started = keepFiles().then(() => {
    const worker = new Worker("worker.js", { type: "module" });
    worker.onmessage = ({ data }) => {
      const call = waiting.get(data.id);
      if (!call) return;
      if (data.image) return call.onImage?.(data.image);
      waiting.delete(data.id);
      if (data.error) call.failed(new Error(data.error));
      else call.done(data.result);
    };
    worker.onerror = (event) => {
      for (const call of waiting.values()) call.failed(new Error(event.message || "It stopped."));
      waiting.clear();
    };
    return worker;
  });

  async function call(kind, body, { signal, onImage } = {}) {
    const worker = await started;
    const id = ++last;
    return new Promise((done, failed) => {
      waiting.set(id, { done, failed, onImage });
      signal?.addEventListener("abort", () => {
        waiting.delete(id);
        worker.postMessage({ id, kind: "cancel" });
        failed(new DOMException("", "AbortError"));
      });
      worker.postMessage({ id, kind, body, stream: Boolean(onImage) });
    });
  }

  // &amp; and its like, each by itself: a sentence is never parsed as a page
  const entity = (text) => new DOMParser().parseFromString(text, "text/html").documentElement.textContent;
  const unescaped = (text) => text.replace(/&(#\d+|#x[\da-f]+|[a-z]\w*);/gi, entity);
  const cleaned = (text) => text && unescaped(unescaped(text.replace(/[\ud800-\udfff]/gu, "\ufffd")));

  function ask(kind, body, how) {
    const clean = { ...body, prompt: cleaned(body.prompt), negative: cleaned(body.negative) };
    for (const end of ["a", "b"]) {
      if (body[end]) clean[end] = { ...body[end], prompt: cleaned(body[end].prompt) };
    }
    return call(kind, clean, how);
  }

  return { kinds, without, about: () => call("about"), ask };
})();
