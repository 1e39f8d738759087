// Runs an agent on the AI SDK, over each kind of model that it has; prints what it saw as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, id, prompt] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const compatible = createOpenAICompatible({
  name: "clinvk",
  baseURL,
  supportsStructuredOutputs: true,
});
const models = { chat: openai.chat(id), responses: openai.responses(id), compatible: compatible(id) };

let ran = [];
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

const seen = {};
for (const [kind, model] of Object.entries(models)) {
  const asked = { model, prompt: `${prompt} ${kind}`, maxRetries: 0 };
  const loop = { ...asked, tools, stopWhen: stepCountIs(5) };
  ran = [];
  const whole = await generateText({ ...loop, system: "Be brief." });
  seen[`${kind} whole`] = { ran, text: whole.text, finish: whole.finishReason };

  ran = [];
  const onError = ({ error }) => {
    throw error;
  };
  const streamed = streamText({ ...loop, onError });
  const pieces = [];
  for await (const piece of streamed.textStream) pieces.push(piece);
  const [text, finish] = [await streamed.text, await streamed.finishReason];
  seen[`${kind} streamed`] = { ran, text, finish, pieces };

  const schema = z.object({ sky: z.string() });
  seen[`${kind} object`] = (await generateObject({ ...asked, schema })).object;
}
console.log(JSON.stringify(seen));
