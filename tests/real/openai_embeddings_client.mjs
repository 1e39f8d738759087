// Asks the real npm openai client for embeddings as a program would, and prints what it saw.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const model = "text-embedding-3-small";
const input = ["The cat sat on the windowsill.", "A kitten was resting by the window."];
const seen = {};

const byDefault = await client.embeddings.create({ model, input });
const asNumbers = await client.embeddings.create({ model, input, encoding_format: "float" });
seen.same = byDefault.data.every((each, at) =>
  each.embedding.every((number, place) => number === asNumbers.data[at].embedding[place]),
);
seen.lengths = byDefault.data.map((each) => each.embedding.length);
seen.usage = byDefault.usage;
seen.model = byDefault.model;
const [one, other] = byDefault.data.map((each) => each.embedding);
seen.near = one.reduce((sum, number, place) => sum + number * other[place], 0);
const short = await client.embeddings.create({ model, input: [[9906], [1917]], dimensions: 64 });
seen.short = short.data.map((each) => each.embedding.length);
try {
  await client.embeddings.create({ model, input: ["fine", ""] });
} catch (error) {
  seen.error = { name: error.constructor.name, status: error.status, param: error.param };
}
console.log(JSON.stringify(seen));
