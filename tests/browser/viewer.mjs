#!/usr/bin/env node
// Opens the viewers' page in Chromium and records the drawn frames.
//
//   node viewer.mjs watch --url URL [--token T] [--seconds N | --until-frames N] [--json out.json]
//                         [--viewers N] [--read-pattern] [--screenshot file.png] [--overlay]
//                         [--width W --height H --scale S] [--timeout SECONDS] [--restarts N]
//
// Exits with 0 if every viewer drew frames, at least --until-frames of them. With --read-pattern no frame may be torn, and
// frame numbers must increase, except at --restarts of the desktop, which restart them; --until-frames then counts different
// numbers and also waits for the restarts.

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { withBrowser } from "./chromium.mjs";
import { reading, watch } from "./pattern.mjs";

const options = {
  url: { type: "string" }, token: { type: "string" },
  seconds: { type: "string", default: "10" }, "until-frames": { type: "string" },
  timeout: { type: "string", default: "60" }, restarts: { type: "string", default: "0" },
  json: { type: "string" }, viewers: { type: "string", default: "1" }, "read-pattern": { type: "boolean", default: false },
  screenshot: { type: "string" }, overlay: { type: "boolean", default: false },
  width: { type: "string", default: "1280" }, height: { type: "string", default: "760" }, scale: { type: "string", default: "1" },
};
const MAX_FRAMES = 100_000;

/** Opens a viewer and records its frames from the first one on, unless the caller has hooks of its own. */
export async function open(context, { url, token, readPattern = false, hooks = true }) {
  const page = await context.newPage();
  const log = [];
  page.on("console", (message) => log.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => log.push(`error: ${error.message}`));
  if (hooks) {
    await page.addInitScript(reading);
    await page.addInitScript(watch, { readPattern, limit: MAX_FRAMES });
  }
  const target = new URL(url);
  if (token) target.hash = new URLSearchParams({ token }).toString();
  const response = await page.goto(target.href, { waitUntil: "domcontentloaded" });
  // With a token the first response may be the page that exchanges it for a session.
  if (!response.ok() && !(token && response.status() === 401)) throw new Error(`${url} responded with ${response.status()}: ${(await response.text()).slice(0, 200)}`);
  await page.waitForFunction(() => window.desktopstream?.stats, null, { timeout: 10_000 });
  // The browser logs the response without a session as an error.
  if (response.status() === 401) log.length = 0;
  return { page, log };
}

/** The drawn frames and the page's statistics. */
export async function report({ page, log }, restarts = 0) {
  const seen = await page.evaluate(() => ({ frames: window.drawn, torn: window.torn, stats: window.desktopstream.stats() }));
  const numbers = seen.frames.map((frame) => frame.number).filter((number) => number != null);
  const ordered = numbers.filter((number, i) => i > 0 && number < numbers[i - 1]).length <= restarts;
  return { ...seen, ordered, url: page.url(), log };
}

/** True in a page that drew enough frames and saw the restarts of its desktop. Runs in the page. */
function reached({ frames, restarts, distinct }) {
  const numbers = window.drawn.map((frame) => frame.number);
  const falls = numbers.filter((number, i) => i > 0 && number < numbers[i - 1]).length;
  return (distinct ? new Set(numbers).size : numbers.length) >= frames && falls >= restarts;
}

async function run() {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals[0] !== "watch" || !values.url) {
    console.error("usage: node viewer.mjs watch --url URL [options]; see the comment at the top of the file");
    return 2;
  }
  const number = (name) => {
    const value = Number(values[name]);
    if (!(value > 0)) throw new Error(`--${name} must be a positive number`);
    return value;
  };
  const timeout = number("timeout") * 1000;
  const until = values["until-frames"] === undefined ? null : number("until-frames");
  return withBrowser(async (context) => {
    const viewers = [];
    for (let i = 0; i < number("viewers"); i++) {
      viewers.push(await open(context, { url: values.url, token: values.token, readPattern: values["read-pattern"] }));
    }
    if (values.overlay) await viewers[0].page.keyboard.press("i");
    const target = { frames: until ?? 1, restarts: until === null ? 0 : Number(values.restarts), distinct: values["read-pattern"] };
    const drawn = (viewer) => viewer.page.waitForFunction(reached, target, { timeout, polling: 50 }).catch(() => {});
    await Promise.all(viewers.map(drawn));
    if (until === null) await viewers[0].page.waitForTimeout(number("seconds") * 1000);
    if (values.screenshot) await viewers[0].page.screenshot({ path: values.screenshot });
    const reports = await Promise.all(viewers.map((viewer) => report(viewer, Number(values.restarts))));
    if (values.json) await writeFile(values.json, JSON.stringify({ url: values.url, viewers: reports }));
    let passed = true;
    for (const [i, { frames, torn, ordered, stats, log }] of reports.entries()) {
      const latency = stats.latency_ms.p50?.toFixed(1) ?? "–";
      console.log(`viewer ${i}: ${frames.length} frames drawn, last ${stats.lastSeq}, ${stats.fps.toFixed(1)} fps, latency ${latency} ms p50, ` +
        `${stats.dropped} dropped, ${stats.errors} decoder errors, ${torn} torn${values["read-pattern"] ? `, ${ordered ? "in order" : "out of order"}` : ""}`);
      for (const line of log) console.log(`  ${line}`);
      passed &&= frames.length >= (until ?? 1) && torn === 0 && ordered;
    }
    return passed ? 0 : 1;
  }, { width: number("width"), height: number("height"), scale: number("scale") });
}

if (import.meta.url === `file://${process.argv[1]}`) process.exitCode = await run();
