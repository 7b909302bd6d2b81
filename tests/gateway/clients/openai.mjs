// OpenAI's SDK: whole, streamed, a tool, a schema, embeddings, responses, models, an error.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const parameters = { type: "object", properties: { place: { type: "string" } }, required: ["place"] };
const told = {};

told.whole = (await client.chat.completions.create({ model: "groq", messages })).choices[0].message.content;
told.stream = "";
const stream = await client.chat.completions.create({
  model: "gemini", messages, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  told.stream += chunk.choices[0]?.delta.content ?? "";
  told.usage = chunk.usage?.total_tokens ?? told.usage;
}
const tools = [{ type: "function", function: { name: "look", parameters } }];
const called = await client.chat.completions.create({ model: "any", messages, tools });
told.tool = JSON.parse(called.choices[0].message.tool_calls[0].function.arguments);
const format = { type: "json_schema", json_schema: { name: "x", strict: true, schema: parameters } };
const formed = await client.chat.completions.create({ model: "groq", messages, response_format: format });
told.schema = JSON.parse(formed.choices[0].message.content);
const embedded = await client.embeddings.create({ model: "gemini/gemini-embedding-001", input: "hello" });
told.embedding = embedded.data[0].embedding.length > 0;
told.responses = (await client.responses.create({ model: "groq", input: "hello" })).output_text;
told.models = (await client.models.list()).data.map((model) => model.id).includes("any");
try {
  await client.chat.completions.create({ model: "nobody/x", messages });
} catch (error) {
  told.error = `${error.constructor.name} ${error.status} ${error.code}`;
}
console.log(JSON.stringify(told));
