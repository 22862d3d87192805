// Decodes a stream whose encoder session was rebuilt several times in Chromium: every picture has its number, none is
// torn, and the decoder delays none. host-agent/videotoolbox/tests/replaced_session.rs writes the stream; `./x test browser` runs
// both.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { test } from "node:test";
import { withBrowser } from "./chromium.mjs";
import { reading } from "./pattern.mjs";

const path = process.env.REBUILT_STREAM;

/** Parses the file: for each access unit the frame number and the length, u32 little-endian, then the bytes. */
function units(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length;) {
    const [number, length] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)];
    found.push({ number, data: bytes.subarray(at + 8, at + 8 + length).toString("base64") });
    at += 8 + length;
  }
  return found;
}

/** Runs in the page: decodes the units one by one; records each picture's number and timestamp. */
async function decode(units) {
  const bytes = units.map(({ data }) => Uint8Array.from(atob(data), (c) => c.charCodeAt(0)));
  const kinds = (unit) => {
    const found = [];
    for (let at = 0; at + 3 < unit.length; at++) {
      if (unit[at] === 0 && unit[at + 1] === 0 && unit[at + 2] === 1) found.push([unit[at + 3] & 31, at + 3]);
    }
    return found;
  };
  const sps = kinds(bytes[0]).find(([kind]) => kind === 7)[1];
  const hex = (byte) => byte.toString(16).padStart(2, "0");
  const codec = `avc1.${[...bytes[0].subarray(sps + 1, sps + 4)].map(hex).join("")}`;
  const seen = [], errors = [];
  const decoder = new VideoDecoder({
    output: (frame) => { seen.push({ at: frame.timestamp, number: window.readNumber(frame) }); frame.close(); },
    error: (error) => errors.push(String(error)),
  });
  decoder.configure({ codec, optimizeForLatency: true });
  let held = 0;
  for (const [index, data] of bytes.entries()) {
    const type = kinds(data).some(([kind]) => kind === 5) ? "key" : "delta";
    decoder.decode(new EncodedVideoChunk({ type, timestamp: units[index].number, data }));
    const until = performance.now() + 5_000;
    while (seen.length <= index && !errors.length && performance.now() < until) await new Promise((r) => setTimeout(r));
    held += seen.length <= index;
  }
  if (decoder.state === "configured") await decoder.flush();
  return { codec, seen, errors, held };
}

test("stream of a rebuilt encoder session decodes without errors or delays", { timeout: 120_000 }, async () => {
  if (!path) throw new Error("REBUILT_STREAM is not set: run `./x test browser`, which creates the stream");
  const all = units(await readFile(path));
  assert.ok(all.length > 40, `${all.length} access units`);
  // WebCodecs requires a secure context; loopback origins are.
  const server = createServer((_, answer) => answer.setHeader("Content-Type", "text/html").end("<!doctype html>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await withBrowser(async (context) => {
      const page = await context.newPage();
      await page.addInitScript(reading);
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      const { codec, seen, errors, held } = await page.evaluate(decode, all);
      assert.deepEqual(errors, [], codec);
      assert.deepEqual(seen.map(({ number }) => number), all.map(({ number }) => number), "each picture has its number");
      assert.deepEqual(seen.map(({ at }) => at), all.map(({ number }) => number), "pictures are in order");
      assert.equal(held, 0, "each picture is decoded before the next access unit is submitted");
      console.log(`${seen.length} pictures of ${codec}`);
    });
  } finally {
    server.close();
  }
});
