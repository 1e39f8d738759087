// Runs the script of the page over a document, with as little of a browser as it needs, opens
// everything, and prints the text that a reader sees.
import { readFileSync } from "node:fs";

class Element {
  constructor(tag) { Object.assign(this, { tag, children: [], opened: null }); }
  append(...children) { this.children.push(...children); }
  addEventListener(name, act) { this.opened = act; }
  set textContent(text) { this.children = [text]; }
  // Schemas contain themselves: three levels show that opening works.
  read(depth = 0) {
    if (this.opened && depth < 3) this.opened();
    return this.children
      .map((child) => (child instanceof Element ? child.read(depth + (this.opened ? 1 : 0)) : child))
      .join(" ");
  }
}

const [page, spec] = process.argv.slice(2).map((path) => readFileSync(path, "utf8"));
const places = { about: new Element("p"), operations: new Element("main") };
globalThis.document = {
  createElement: (tag) => new Element(tag),
  getElementById: (id) => places[id],
};
globalThis.location = { origin: "http://here" };
globalThis.fetch = async (url) => {
  if (url !== "openapi.json") throw new Error(`asked for ${url}`);
  return { json: async () => JSON.parse(spec) };
};
(0, eval)(page.match(/<script>([^]*)<\/script>/)[1]);
setTimeout(() => console.log(`${places.about.read()}\n${places.operations.read()}`), 0);
