"use strict";
// The OpenAPI description as a page, without scripts from elsewhere.

const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });

fetch("/openapi.json").then((answer) => answer.json()).then((told) => {
  const main = document.getElementById("endpoints");
  main.append(element("p", told.info.description));
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, what] of Object.entries(methods)) {
      main.append(element("h2", `${method.toUpperCase()} ${path}`), element("p", what.description ?? ""));
      const body = what.requestBody?.content?.["application/json"]?.schema;
      if (body) {
        const schema = told.components.schemas[body.$ref.split("/").pop()];
        main.append(element("pre", JSON.stringify(schema.properties, null, 1)));
      }
    }
  }
});
