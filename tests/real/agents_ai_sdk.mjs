// Runs an agent on the AI SDK over each kind of model that it has, and prints what it saw as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, id, kind, question] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const compatible = createOpenAICompatible({ name: "clinvk", baseURL, supportsStructuredOutputs: true });
const model = { chat: openai.chat, responses: openai.responses, compatible }[kind](id);

const ran = [];
const tools = {
  get_weather: tool({
    description: "The weather",
    inputSchema: z.object({ city: z.string() }),
    execute: async (input) => (ran.push(["get_weather", input]), `sunny in ${input.city}`),
  }),
  get_time: tool({
    description: "The time",
    inputSchema: z.object({ zone: z.string() }),
    execute: async (input) => (ran.push(["get_time", input]), `noon in ${input.zone}`),
  }),
};
const asked = { model, prompt: question, maxRetries: 0 };
const seen = { ran };

if (process.argv[6] === "object") {
  const made = await generateObject({ ...asked, schema: z.object({ sky: z.string() }) });
  seen.object = made.object;
} else if (process.argv[6] === "stream") {
  const made = streamText({ ...asked, tools, stopWhen: stepCountIs(5), onError: ({ error }) => { throw error; } });
  seen.pieces = [];
  for await (const piece of made.textStream) seen.pieces.push(piece);
  seen.text = await made.text;
  seen.finish = await made.finishReason;
  seen.steps = (await made.steps).length;
} else {
  const made = await generateText({ ...asked, tools, stopWhen: stepCountIs(5) });
  seen.text = made.text;
  seen.finish = made.finishReason;
  seen.steps = made.steps.length;
}
console.log(JSON.stringify(seen));
