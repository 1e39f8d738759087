// Uses what an OpenAI-compatible server has by the real npm openai client, and prints what it saw.
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "look at the sea" }];
const parameters = { type: "object", properties: { at: { type: "string" } }, required: ["at"] };
const tools = [{ type: "function", function: { name: "look", parameters } }];
const seen = {};

seen.listed = (await client.models.list()).data.some((each) => each.id === model);
seen.model = (await client.models.retrieve(model)).id;
const { data, response } = await client.chat.completions.create({ model, messages }).withResponse();
seen.chat = data.choices[0].message.content;
seen.limit = response.headers.get("x-ratelimit-limit-requests");
const stream = client.chat.completions.stream({ model, messages, tools });
const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
seen.called = [call.function.name, Object.keys(JSON.parse(call.function.arguments))];
const events = await client.responses.create({ model, input: "hello", stream: true });
for await (const event of events) seen.last = event.type;
const vectors = await client.embeddings.create({ model, input: ["a", "b"], encoding_format: "float" });
seen.vectors = vectors.data.map((row) => row.embedding.length);
const picture = (await client.images.generate({ model, prompt: "a guinea pig" })).data[0];
seen.picture = (picture.url ?? picture.b64_json).length > 0;
console.log(JSON.stringify(seen));
