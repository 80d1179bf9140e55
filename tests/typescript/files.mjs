// All file work of the official TypeScript clients; prints what they saw as JSON.
//
// From the environment: BASE_URL without /v1, API_KEY, FILE (the path of a PDF with three pages).

import { createHash } from "node:crypto";
import { openAsBlob } from "node:fs";
import { readFile } from "node:fs/promises";
import { Mistral } from "@mistralai/mistralai";
import OpenAI, { toFile } from "openai";

const { BASE_URL, API_KEY, FILE } = process.env;
const content = await readFile(FILE);

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function bytesOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Return what an error of a client says, without the client's own words. */
async function failure(work) {
  try {
    await work();
  } catch (error) {
    return { name: error.constructor.name, status: error.statusCode ?? error.status };
  }
  return null;
}

async function mistral() {
  const client = new Mistral({ apiKey: API_KEY, serverURL: BASE_URL });
  const blob = await openAsBlob(FILE, { type: "application/pdf" });
  const uploaded = await client.files.upload({
    file: new File([blob], "blåbär.pdf"),
    purpose: "ocr",
    expiry: 2,
  });
  const fileId = uploaded.id;
  const retrieved = await client.files.retrieve({ fileId });
  const listed = await client.files.list({ page: 0, pageSize: 10, includeTotal: true, search: "blåbär" });
  const downloaded = await bytesOf(await client.files.download({ fileId }));
  const signed = await client.files.getSignedUrl({ fileId, expiry: 1 });
  const open = await fetch(signed.url);
  const byFile = await client.ocr.process({ model: "echo", document: { type: "file", fileId } });
  const byUrl = await client.ocr.process({
    model: "echo",
    document: { type: "document_url", documentUrl: signed.url },
    pages: "1-2",
  });
  const deleted = await client.files.delete({ fileId });
  return {
    uploaded,
    retrieved,
    listed,
    downloaded: sha256(downloaded),
    signed: { status: open.status, sha256: sha256(Buffer.from(await open.arrayBuffer())) },
    byFile: byFile.pages.map((page) => [page.index, page.markdown.split("\n")[0]]),
    byUrl: byUrl.pages.map((page) => [page.index, page.markdown.split("\n")[0]]),
    deleted,
    gone: await failure(() => client.files.retrieve({ fileId })),
    linkGone: (await fetch(signed.url)).status,
    forged: await failure(() =>
      new Mistral({ apiKey: `${API_KEY}x`, serverURL: BASE_URL }).files.list({}),
    ),
  };
}

async function openai() {
  const client = new OpenAI({ apiKey: API_KEY, baseURL: `${BASE_URL}/v1`, maxRetries: 0 });
  const created = await client.files.create({
    file: await toFile(content, "one.pdf"),
    purpose: "user_data",
    expires_after: { anchor: "created_at", seconds: 3600 },
  });
  const waited = await client.files.waitForProcessing(created.id);
  const second = await client.files.create({ file: await toFile(content, "two.pdf"), purpose: "ocr" });
  const listed = [];
  for await (const file of client.files.list({ limit: 1, order: "asc" })) listed.push(file.id);
  const downloaded = await (await client.files.content(created.id)).arrayBuffer();
  const upload = await client.uploads.create({
    bytes: content.length,
    filename: "parts.pdf",
    mime_type: "application/pdf",
    purpose: "ocr",
  });
  const middle = Math.floor(content.length / 2);
  const parts = await Promise.all(
    [content.subarray(0, middle), content.subarray(middle)].map(async (data) =>
      client.uploads.parts.create(upload.id, { data: await toFile(data, "part") }),
    ),
  );
  const completed = await client.uploads.complete(upload.id, {
    part_ids: parts.map((part) => part.id),
    md5: createHash("md5").update(content).digest("hex"),
  });
  const assembled = await (await client.files.content(completed.file.id)).arrayBuffer();
  const other = await client.uploads.create({
    bytes: 10,
    filename: "no.pdf",
    mime_type: "application/pdf",
    purpose: "ocr",
  });
  const cancelled = await client.uploads.cancel(other.id);
  const deleted = [];
  for (const id of [created.id, second.id, completed.file.id]) deleted.push(await client.files.delete(id));
  return {
    created,
    waited: waited.status,
    ids: [created.id, second.id],
    listed,
    downloaded: sha256(Buffer.from(downloaded)),
    upload,
    parts,
    completed,
    assembled: sha256(Buffer.from(assembled)),
    cancelled: cancelled.status,
    deleted: deleted.map((answer) => answer.deleted),
    gone: await failure(() => client.files.retrieve(created.id)),
  };
}

console.log(JSON.stringify({ mistral: await mistral(), openai: await openai() }));
