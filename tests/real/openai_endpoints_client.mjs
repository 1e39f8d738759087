// Uses every endpoint of the real npm openai client as a program would, and prints what it saw.
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const name = process.argv[3];
const model = `${name}/gpt-4o`;
const messages = [{ role: "user", content: "hello" }];
const sound = () => toFile(Buffer.alloc(3_000_000, 1), "speech.wav");
const seen = {};

const chat = await client.chat.completions.create({ model, messages, temperature: 0.3 });
seen.chat = chat.choices[0].message.content;
seen.streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  seen.streamed += chunk.choices[0]?.delta?.content ?? "";
}
seen.response = (await client.responses.create({ model, input: "hello" })).output_text;

const vectors = await client.embeddings.create({ model, input: "vector", encoding_format: "float" });
seen.embedding = vectors.data[0].embedding;
seen.flagged = (await client.moderations.create({ model, input: "peace" })).results[0].flagged;
const prompt = "a guinea pig";
seen.image = (await client.images.generate({ model, prompt })).data[0].b64_json;
const image = await toFile(Buffer.from("png"), "a.png", { type: "image/png" });
seen.edited = (await client.images.edit({ image, model, prompt })).data[0].b64_json;
const said = await client.audio.speech.create({ model, input: "say it", voice: "alloy" });
seen.said = Buffer.from(await said.arrayBuffer()).toString();
seen.heard = (await client.audio.transcriptions.create({ file: await sound(), model })).text;
seen.translated = (await client.audio.translations.create({ file: await sound(), model })).text;

const file = await client.files.create({
  file: await toFile(Buffer.from("%PDF-1.4"), "a.pdf"),
  purpose: "user_data",
});
const read = await client.chat.completions.create({
  model,
  messages: [
    {
      role: "user",
      content: [
        { type: "text", text: "hello" },
        { type: "file", file: { file_id: file.id } },
      ],
    },
  ],
});
const gone = await client.files.delete(file.id);
seen.file = [file.filename, read.choices[0].message.content, gone.deleted];

try {
  const content = "too much";
  await client.chat.completions.create({ model, messages: [{ role: "user", content }] });
} catch (error) {
  const { status, code } = error;
  const retryAfter = error.headers.get("retry-after");
  seen.error = { name: error.constructor.name, status, code, retryAfter };
}
console.log(JSON.stringify(seen));
