// Runs an agent on the openai package, by its tool runner and over responses; prints what it saw.
import OpenAI from "openai";

const [baseURL, model, kind, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const ran = [];
const run = {
  get_weather: ({ city }) => (ran.push(["get_weather", { city }]), `sunny in ${city}`),
  get_time: ({ zone }) => (ran.push(["get_time", { zone }]), `noon in ${zone}`),
};
const text = (name) => ({
  type: "object",
  properties: { [name]: { type: "string" } },
  required: [name],
  additionalProperties: false,
});
const functions = [
  { name: "get_weather", description: "The weather", parameters: text("city") },
  { name: "get_time", description: "The time", parameters: text("zone") },
];
const seen = { ran };

if (kind === "chat") {
  const tools = functions.map((f) => ({
    type: "function",
    function: { ...f, function: run[f.name], parse: JSON.parse },
  }));
  const messages = [{ role: "user", content: question }];
  const runner = client.chat.completions.runTools({ model, messages, tools, stream: true });
  seen.text = await runner.finalContent();
} else {
  const tools = functions.map((f) => ({ type: "function", strict: true, ...f }));
  let input = [{ role: "user", content: question }];
  let previous_response_id;
  for (;;) {
    const stream = client.responses.stream({ model, input, tools, previous_response_id });
    const response = await stream.finalResponse();
    const calls = response.output.filter((item) => item.type === "function_call");
    seen.text = response.output_text;
    if (!calls.length) break;
    previous_response_id = response.id;
    input = calls.map(({ call_id, name, arguments: said }) => ({
      type: "function_call_output",
      call_id,
      output: run[name](JSON.parse(said)),
    }));
  }
}
console.log(JSON.stringify(seen));
