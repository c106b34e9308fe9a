// Parse every Mermaid diagram of some Markdown pages with Mermaid's own parser: node tests/mermaid.mjs MODULES PAGE..
// MODULES is a folder in which npm has installed `mermaid` and `jsdom`.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, ...pages] = process.argv.slice(2);
const { resolve: find } = createRequire(resolve(modules, "package.json"));
const load = (name) => import(pathToFileURL(find(name)));

// Mermaid cleans labels with DOMPurify, which wants a document as soon as it is loaded.
const { JSDOM } = await load("jsdom");
const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });
const { default: mermaid } = await load("mermaid");

let diagrams = 0;
let wrong = 0;
for (const page of pages) {
  const text = readFileSync(page, "utf8");
  for (const block of text.matchAll(/^```mermaid\n(.*?)^```$/gms)) {
    diagrams += 1;
    try {
      await mermaid.parse(block[1]);
    } catch (error) {
      wrong += 1;
      const line = text.slice(0, block.index).split("\n").length;
      console.error(`${page}:${line}: ${error.message}`);
    }
  }
}
console.log(`${diagrams} diagrams: ${wrong || "no"} problems`);
process.exit(wrong || !diagrams ? 1 : 0);
