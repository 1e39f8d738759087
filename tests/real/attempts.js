// What a page can try with `target`. Each tells what the page could read; null is nothing.
const read = async (promise) => {
  try {
    return (await (await promise).text()) || null;
  } catch {
    return null;
  }
};
const told = (make, good, ...bad) => new Promise((done) => {
  const made = make();
  made[`on${good}`] = () => done(good);
  for (const name of bad) made[`on${name}`] = () => done(null);
});
const hi = JSON.stringify(HI);
const json = {"content-type": "application/json"};
const chat = `${target}/v1/chat/completions`;
const post = (headers, body, more = {}) => fetch(chat, {method: "POST", headers, body, ...more});
const framed = (attributes, html) => new Promise((done) => {
  addEventListener("message", (event) => done(event.data), {once: true});
  const frame = document.createElement("iframe");
  Object.assign(frame, attributes, html ? {srcdoc: html} : {});
  document.body.append(frame);
});
const form = (type, name, value) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.name = `f${Math.random()}`;
  document.body.append(frame);
  frame.onload = () => {
    try {
      done(frame.contentDocument.body.textContent);
    } catch {
      done(null);
    }
  };
  const made = document.createElement("form");
  Object.assign(made, {method: "POST", action: chat, enctype: type, target: frame.name});
  const field = document.createElement("input");
  Object.assign(field, {name, value});
  made.append(field);
  document.body.append(made);
  made.submit();
});
const embedded = (tag, attributes) => told(() => {
  const made = document.createElement(tag);
  Object.assign(made, attributes);
  document.body.append(made);
  return made;
}, "load", "error");
return {
  models: await read(fetch(`${target}/v1/models`)),
  health: await read(fetch(`${target}/health`)),
  metrics: await read(fetch(`${target}/metrics`)),
  opaque: await read(fetch(`${target}/v1/models`, {mode: "no-cors"})),
  json: await read(post(json, hi)),
  stream: await read(post(json, JSON.stringify({...HI, stream: true}))),
  withKey: await read(post({...json, authorization: "Bearer unused", "x-api-key": "unused"}, hi)),
  text: await read(post({"content-type": "text/plain"}, hi)),
  opaqueText: await read(post({"content-type": "text/plain"}, hi, {mode: "no-cors"})),
  untyped: await read(post({}, new Blob([hi]), {mode: "no-cors"})),
  credentials: await read(post({"content-type": "text/plain"}, hi, {credentials: "include"})),
  deleted: await read(fetch(`${target}/v1/responses/resp_1`, {method: "DELETE"})),
  local: await read(fetch(`${target}/v1/models`, {targetAddressSpace: "loopback"})),
  beacon: (navigator.sendBeacon(chat, new Blob([hi], {type: "text/plain"})), null),
  form: await form("text/plain", hi.slice(0, -1) + ',"a":"', '"}'),
  urlencoded: await form("application/x-www-form-urlencoded", "model", "fake"),
  multipart: await form("multipart/form-data", "model", "fake"),
  script: await embedded("script", {src: `${target}/v1/models`}),
  style: await embedded("link", {rel: "stylesheet", href: `${target}/v1/models`}),
  image: await embedded("img", {src: `${target}/v1/models`}),
  socket: await told(
    () => new WebSocket(`${target.replace("http", "ws")}/v1/models`), "open", "error", "close",
  ),
  events: await told(() => new EventSource(`${target}/v1/models`), "open", "error"),
  sandboxed: await framed({sandbox: "allow-scripts"}, `<script>
    fetch("${target}/v1/models")
      .then((reply) => reply.text())
      .then((text) => parent.postMessage(text, "*"), () => parent.postMessage(null, "*"));
  </` + `script>`),
};
