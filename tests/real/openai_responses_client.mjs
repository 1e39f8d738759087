// Uses the Responses API of the real npm openai client, and prints what it saw as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const model = process.argv[3];
const input = "say one two three";
const seen = {};

const whole = await client.responses.create({ model, input });
seen.whole = whole.output_text;
seen.status = whole.status;
seen.requestId = whole._request_id;

const stream = await client.responses.create({ model, input, stream: true });
seen.pieces = [];
seen.kinds = [];
for await (const event of stream) {
  seen.kinds.push(event.type);
  if (event.type === "response.output_text.delta") seen.pieces.push(event.delta);
}

const helper = client.responses.stream({ model, input });
const final = await helper.finalResponse();
seen.helper = final.output_text;
seen.usage = final.usage;

const next = await client.responses.create({ model, input: "more", previous_response_id: final.id });
seen.next = next.output_text;
seen.items = [];
for await (const item of client.responses.inputItems.list(next.id, { order: "asc" })) {
  seen.items.push(item.content[0].text);
}
seen.kept = (await client.responses.retrieve(next.id)).id === next.id;
await client.responses.delete(next.id);
try {
  await client.responses.retrieve(next.id);
} catch (error) {
  seen.error = { name: error.constructor.name, status: error.status };
}
console.log(JSON.stringify(seen));
