// Uses the real npm openai client's files as a program would, and prints what it saw as JSON.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const [model, path] = process.argv.slice(3);
const seen = {};

const first = await client.files.create({
  file: fs.createReadStream(path),
  purpose: "user_data",
  expires_after: { anchor: "created_at", seconds: 3600 },
});
seen.first = [first.object, first.filename, first.bytes, first.expires_at - first.created_at];
const note = await toFile(Buffer.from("a note\n"), "n.txt", { type: "text/plain" });
const second = await client.files.create({ file: note, purpose: "assistants" });

seen.listed = [];
for await (const file of client.files.list({ limit: 1, order: "asc" })) seen.listed.push(file.filename);
seen.read = Buffer.from(await (await client.files.content(second.id)).arrayBuffer()).toString();
seen.told = (await client.files.retrieve(second.id)).purpose;

const parts = (of) => [{ type: "text", text: "read" }, ...of];
const chat = await client.chat.completions.create({
  model,
  messages: [
    {
      role: "user",
      content: parts([first, second].map(({ id }) => ({ type: "file", file: { file_id: id } }))),
    },
  ],
});
seen.chat = chat.choices[0].message.content;
const response = await client.responses.create({
  model,
  input: [{ role: "user", content: [{ type: "input_file", file_id: first.id }] }],
});
seen.response = response.output_text;

seen.deleted = [await client.files.delete(first.id), await client.files.delete(second.id)].map(
  ({ deleted }) => deleted,
);
seen.errors = [];
for (const ask of [
  () => client.files.retrieve(first.id),
  () => client.files.create({ file: note, purpose: "nothing" }),
  () =>
    client.responses.create({
      model,
      input: [{ role: "user", content: [{ type: "input_file", file_id: first.id }] }],
    }),
]) {
  try {
    await ask();
  } catch (error) {
    seen.errors.push([error.constructor.name, error.status, error.code, error.param]);
  }
}
console.log(JSON.stringify(seen));
