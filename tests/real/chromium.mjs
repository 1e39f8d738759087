// Unpacks the Chromium that ships inside @sparticuz/chromium into the folder that is named.
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";

const [target] = process.argv.slice(2);
const bin = join(dirname(createRequire(import.meta.url).resolve("@sparticuz/chromium")), "../../bin");
const made = `${target}.${process.pid}`;
mkdirSync(made, { recursive: true });
for (const [from, to] of [["chromium.br", "chromium"], ["swiftshader.tar.br", "gl.tar"], ["al2023.tar.br", "lib.tar"]]) {
  writeFileSync(join(made, to), brotliDecompressSync(readFileSync(join(bin, from))));
}
chmodSync(join(made, "chromium"), 0o755);
renameSync(made, target);
