// Stream an answer with the OpenAI client for Node.
// Usage: npm install openai && node examples/openai_node.mjs [MODEL]
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8080/openai/v1",
  apiKey: "unused",
});

const stream = await client.chat.completions.create({
  model: process.argv[2] ?? "echo",
  messages: [{ role: "user", content: "Count from one to five." }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
process.stdout.write("\n");
