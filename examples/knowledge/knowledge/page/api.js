// The HTTP interface, made of /openapi.json.
"use strict";

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// A schema with what it refers to put in its place.
function resolved(schema, all) {
  if (Array.isArray(schema)) return schema.map((part) => resolved(part, all));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref) return resolved(all[schema.$ref.split("/").pop()], all);
  return Object.fromEntries(Object.entries(schema).map(([key, part]) => [key, resolved(part, all)]));
}

function described(title, schema, all) {
  const made = element("details");
  made.append(element("summary", title), element("pre", JSON.stringify(resolved(schema, all), null, 2)));
  return made;
}

async function main() {
  const told = await (await fetch("/openapi.json")).json();
  const all = (told.components || {}).schemas || {};
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const article = element("article");
      article.append(element("h2", `${method.toUpperCase()} ${path}`), element("p", operation.description || operation.summary));
      const body = operation.requestBody && operation.requestBody.content["application/json"];
      if (body) article.append(described("Request", body.schema, all));
      for (const [status, reply] of Object.entries(operation.responses)) {
        const content = reply.content && reply.content["application/json"];
        if (content) article.append(described(`Reply ${status}`, content.schema, all));
      }
      document.getElementById("operations").append(article);
    }
  }
}

main();
