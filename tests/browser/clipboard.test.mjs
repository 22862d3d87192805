// Tests of the page's clipboard in Chromium. The server of the page is real; its WebSocket is a fake that answers in the page,
// so that the test says what the desktop does. `sidecar/viewers/src/server/wire/clipboard.rs` describes the messages.

import assert from "node:assert/strict";
import { test } from "node:test";
import { withBrowser } from "./chromium.mjs";
import { start } from "./example.mjs";

const WAIT = { timeout: 90_000, polling: 50 };
const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFElEQVR42mP4z8DAAMIM////ZwAAHu8E/HMcU8wAAAAASUVORK5CYII=";

/** Replaces the WebSocket by a fake server. `fake.log`: keys and contents in the order in which they arrived. Runs in the page. */
function fakeServer() {
  const fake = window.fake = { log: [], error: undefined, policy: "Both" };
  let content = null;
  window.WebSocket = class {
    static OPEN = 1;
    readyState = 1;
    bufferedAmount = 0;
    constructor() {
      const message = (message) => this.onmessage({ data: JSON.stringify(message) });
      const answer = (id) => setTimeout(() => message({ type: "stored", id, error: fake.error }), 20);
      setTimeout(() => {
        this.onopen();
        message({ type: "input", you: 1, allowed: true, policy: "Exclusive", controller: 1, requests: [], backend: "fake", reason: "", layouts: [] });
        message({ type: "clipboard", policy: fake.policy, protocol: "fake", reason: "" });
      });
      this.received = (data) => {
        if (typeof data !== "string") {
          content.bytes.push(...data.subarray(8));
          if (content.bytes.length < content.parts.reduce((sum, { bytes }) => sum + bytes, 0)) return;
          fake.log.push({ formats: content.parts.map(({ format }) => format), text: new TextDecoder().decode(new Uint8Array(content.bytes)) });
          answer(content.id);
          return;
        }
        const received = JSON.parse(data);
        if (received.type === "selection") content = { ...received, bytes: [] };
        if (received.type === "accepts") fake.accepts = received.formats;
        if (received.type === "input") fake.log.push(...received.events.filter(({ t }) => t === "key").map(({ code, down }) => (down ? "+" : "-") + code));
      };
      /** Sends a content of the desktop, in chunks of `chunk` bytes. */
      fake.copy = (id, parts, chunk) => {
        message({ type: "selection", id, parts: parts.map(([format, , bytes]) => ({ format, bytes: bytes.length })) });
        for (const [, number, bytes] of parts) {
          for (let at = 0; at < bytes.length; at += chunk) {
            const data = new Uint8Array([67, 1, number, 0, id, 0, 0, 0, ...bytes.slice(at, at + chunk)]);
            this.onmessage({ data: data.buffer });
          }
        }
      };
    }
    send(data) { this.received(data); }
    close() {}
  };
}

const bytes = (content) => [...Buffer.from(content)];
const copied = (page, text) => page.evaluate((text) => navigator.clipboard.writeText(text), text);
const copiedPicture = (page) => page.evaluate((png) => {
  const blob = new Blob([Uint8Array.from(atob(png), (byte) => byte.charCodeAt(0))], { type: "image/png" });
  return navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}, PNG);

/** Presses keys, and returns what arrived up to the release of the first. */
async function press(page, keys, first = "ControlLeft") {
  await page.evaluate(() => { window.fake.log = []; });
  await page.keyboard.press(keys);
  await page.waitForFunction((key) => window.fake.log.includes(`-${key}`), first, WAIT);
  return page.evaluate(() => window.fake.log);
}

/** A test with a page that controls a desktop. */
function clipboardTest(name, use, policy = "Both") {
  test(name, { timeout: 300_000 }, async () => {
    const server = await start();
    try {
      await withBrowser(async (context) => {
        await context.grantPermissions(["clipboard-read", "clipboard-write"]);
        const page = await context.newPage();
        await page.addInitScript(fakeServer);
        await page.addInitScript((policy) => { window.fake.policy = policy; }, policy);
        await page.goto(server.url);
        await page.waitForFunction(() => document.activeElement?.id === "keys" && window.desktopstream.clipboard.info, null, WAIT);
        await use(page);
      });
    } finally {
      await server.stop();
    }
  });
}

const PASTED = ["+KeyV", "-KeyV", "-ControlLeft"];

clipboardTest("content is sent before the key that pastes it, and only after it has changed", async (page) => {
  assert.deepEqual(await page.evaluate(() => window.fake.accepts), ["text/plain", "text/html", "image/png"]);
  await copied(page, "ü 😀");
  assert.deepEqual(await press(page, "Control+KeyV"), ["+ControlLeft", { formats: ["text/plain"], text: "ü 😀" }, ...PASTED]);
  assert.deepEqual(await press(page, "Control+KeyV"), ["+ControlLeft", ...PASTED], "the desktop's may be newer");
  await copied(page, "2");
  const terminal = await press(page, "Control+Shift+KeyV");
  assert.deepEqual(terminal, ["+ControlLeft", "+ShiftLeft", { formats: ["text/plain"], text: "2" }, "+KeyV", "-KeyV", "-ShiftLeft", "-ControlLeft"]);
  await copied(page, "3");
  assert.deepEqual(await press(page, "Shift+Insert", "ShiftLeft"), ["+ShiftLeft", { formats: ["text/plain"], text: "3" }, "+Insert", "-Insert", "-ShiftLeft"]);
  await copiedPicture(page);
  const [, picture] = await press(page, "Control+KeyV");
  assert.deepEqual(picture.formats, ["image/png"]);
  await copied(page, "y".repeat(300_000));
  const [, long] = await press(page, "Control+KeyV");
  assert.equal(long.text.length, 300_000, "more than one chunk");
});

clipboardTest("key is not sent without the content, and the reason is shown", async (page) => {
  await page.evaluate(() => { window.fake.error = "another viewer has control"; });
  await copied(page, "secret");
  const [, content, ...keys] = await press(page, "Control+KeyV");
  assert.equal(content.text, "secret");
  assert.deepEqual(keys, ["-KeyV", "-ControlLeft"]);
  assert.match(await page.textContent("#toast-text"), /another viewer has control/);
  await copied(page, "x".repeat((8 << 20) + 1));
  assert.deepEqual(await press(page, "Control+KeyV"), ["+ControlLeft", "-KeyV", "-ControlLeft"]);
  assert.match(await page.textContent("#toast-text"), /more than 8 MiB/);
});

clipboardTest("content of the desktop is written to the viewer's clipboard and not sent back", async (page) => {
  const desktopCopies = (id, parts) => page.evaluate(([id, parts]) => window.fake.copy(id, parts, 5), [id, parts]);
  await desktopCopies(1, [["text/plain", 1, bytes("vom Desktop ü")], ["text/html", 2, bytes("<i>vom</i> Desktop ü")]]);
  await page.waitForFunction(async () => await navigator.clipboard.readText() === "vom Desktop ü", null, WAIT);
  assert.deepEqual(await press(page, "Control+KeyV"), ["+ControlLeft", ...PASTED]);
  await desktopCopies(2, [["image/png", 3, bytes(Buffer.from(PNG, "base64"))]]);
  await page.waitForFunction(async () => (await navigator.clipboard.read())[0].types.includes("image/png"), null, WAIT);
  assert.deepEqual(await press(page, "Control+KeyV"), ["+ControlLeft", ...PASTED], "the same picture, encoded by the browser");
});

clipboardTest("panel copies, pastes and sends, and is reached by the keyboard", async (page) => {
  await page.evaluate((parts) => window.fake.copy(1, parts, 100), [["text/plain", 1, bytes("vom Desktop")]]);
  await page.keyboard.press("Control+Alt+Shift+KeyV");
  await page.waitForFunction(() => document.activeElement?.id === "clip-text", null, WAIT);
  assert.equal(await page.inputValue("#clip-text"), "vom Desktop");
  const status = (text) => page.waitForFunction((text) => document.getElementById("clip-status").textContent === text, text, WAIT);
  await page.fill("#clip-text", "aus dem Feld");
  await page.click("#clip-send");
  await status("The desktop can paste it");
  await page.click("#clip-copy");
  await status("Copied");
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "aus dem Feld");
  await copied(page, "per Knopf");
  await page.click("#clip-paste");
  await page.waitForFunction(() => window.fake.log.at(-1)?.text === "per Knopf", null, WAIT);
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => document.activeElement?.id === "keys", null, WAIT);
  assert.ok(await page.isHidden("#clip-panel"));
});

clipboardTest("page sends nothing against the policy", async (page) => {
  await copied(page, "stays here");
  assert.deepEqual(await press(page, "Control+KeyV"), ["+ControlLeft", ...PASTED]);
  assert.ok(await page.isHidden("#clip-send"));
}, "FromDesktop");
