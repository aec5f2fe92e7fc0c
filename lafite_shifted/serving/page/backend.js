"use strict";
// The page's backend: the JSON endpoints under /v1 of the server that it came from.

const backend = (() => {
  const reason = ({ detail }) =>
    typeof detail === "string"
      ? detail
      : detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ");

  async function readLines(answer, onImage) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const images = [];
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      text += value ?? "";
      const lines = text.split("\n");
      text = lines.pop();
      for (const line of lines) {
        const image = JSON.parse(line);
        if (image.detail) throw new Error(image.detail);
        images.push(image);
        onImage(image);
      }
      if (done) return images;
    }
  }

  // images as {png, metadata}, a walk as {webp, metadata}; where `onImage` is given it has each as it comes
  async function ask(kind, body, { signal, onImage }) {
    const answer = await fetch(`/v1/${kind}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(onImage ? { ...body, stream: true } : body),
      signal,
    });
    if (!answer.ok) throw new Error(reason(await answer.json()));
    if (onImage) return readLines(answer, onImage);
    const reply = await answer.json();
    return reply.images ?? [reply]; // an animation is one
  }

  const about = () =>
    fetch("/v1/limits").then((answer) => answer.json())
      .catch(() => { throw new Error("The server does not answer."); });

  return { about, ask };
})();
