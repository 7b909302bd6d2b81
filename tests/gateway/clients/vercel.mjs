// The Vercel AI SDK: whole, streamed, a tool that is run.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({ name: "hfs", baseURL: process.argv[2], includeUsage: true });
const told = {};

told.whole = (await generateText({ model: provider("groq"), prompt: "hello" })).text;
told.stream = "";
const streamed = streamText({ model: provider("groq,gemini"), prompt: "hello" });
for await (const part of streamed.textStream) told.stream += part;
told.usage = (await streamed.usage).totalTokens;
const look = tool({
  inputSchema: z.object({ place: z.string() }),
  execute: async ({ place }) => `seen ${place}`,
});
const run = await generateText({
  model: provider("groq"), prompt: "hello", tools: { look }, stopWhen: stepCountIs(3),
});
told.tool = run.text;
console.log(JSON.stringify(told));
