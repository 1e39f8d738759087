// Uses the real npm openai client as a program would, and prints what it saw as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const model = process.argv[3];
const messages = [{ role: "user", content: "say one two three" }];
const seen = {};

const whole = await client.chat.completions.create({ model, messages });
seen.whole = whole.choices[0].message.content;
seen.finish = whole.choices[0].finish_reason;
seen.requestId = whole._request_id;

const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
seen.pieces = [];
for await (const chunk of stream) {
  if (chunk.choices[0]?.delta?.content) seen.pieces.push(chunk.choices[0].delta.content);
  if (chunk.usage) seen.usage = chunk.usage;
}

// The helper is strict: it throws if a role or a finish reason is missing.
const helper = client.chat.completions.stream({ model, messages });
seen.helper = await helper.finalContent();

seen.models = [];
for await (const row of client.models.list()) seen.models.push(row.id);

try {
  await client.chat.completions.create({ model: "nope", messages });
} catch (error) {
  seen.error = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(seen));
