// Tests of the page in Chromium, with a server and an x264 encoder. Build the server first with
// `cargo build -p viewers --example viewer`, then run `npm test`. SHOTS=DIR saves screenshots to DIR.

import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { withBrowser } from "./chromium.mjs";
import { start } from "./example.mjs";
import { record } from "./sound.mjs";
import { open, report } from "./viewer.mjs";

const WAIT = { timeout: 90_000, polling: 50 };
const TOKEN = "0123456789abcdef0123456789abcdef";
const TEST_TIMEOUT = { timeout: 300_000 };

const drawn = (viewer, count) => viewer.page.waitForFunction((n) => window.drawn.length >= n, count, WAIT);
const shot = (page, name) => process.env.SHOTS ? page.screenshot({ path: join(process.env.SHOTS, `${name}.png`) }) : null;

const notice = (page, kind) => page.waitForFunction((k) => document.body.dataset.notice === k, kind, WAIT);

/** A test with a server, started with `args`, and a browser context with the given screen. */
function pageTest(name, args, use, screen) {
  test(name, TEST_TIMEOUT, async () => {
    const server = await start(...args);
    try {
      await withBrowser((context) => use({ server, context }), screen);
    } finally {
      await server.stop();
    }
  });
}

function assertIntact({ frames, torn, ordered, log }) {
  assert.equal(torn, 0, "no torn pictures");
  assert.ok(ordered, "frame numbers increase");
  assert.ok(frames.every((frame) => frame.number === frame.seq), "each picture has the number of its header");
  assert.deepEqual(log.filter((line) => line.startsWith("error")), []);
}

pageTest("two viewers draw pictures in order, and the later one starts with the cached GOP", ["--frame-path", "resource-id"], async ({ server, context }) => {
  const first = await open(context, { url: server.url, readPattern: true });
  await drawn(first, 90);
  // The encoder produces keyframes on request only, and the GOP is too short to request one for a new viewer.
  const second = await open(context, { url: server.url, readPattern: true });
  await drawn(second, 30);
  await first.page.keyboard.press("i");
  await first.page.waitForFunction(() => document.getElementById("v-viewers").textContent === "2", null, WAIT);
  await first.page.mouse.move(300, 300);
  await shot(first.page, "overlay");
  const [one, two] = [await report(first), await report(second)];
  assertIntact(one);
  assertIntact(two);
  assert.ok(two.frames[0].backlog, "the second viewer starts with cached units");
  // The latency depends on the machine; the sum of its parts must not exceed it.
  const live = two.frames.filter((frame) => !frame.backlog && frame.transit_ms !== null && frame.latency_ms !== null);
  const rest = live.map((frame) => frame.latency_ms - frame.server_ms - frame.transit_ms - frame.decode_ms).sort((a, b) => a - b);
  assert.ok(rest.length > 5, "live frames have a measured latency");
  assert.ok(live.every((frame) => frame.latency_ms > 0 && frame.server_ms > 0), "frames are drawn after they were captured");
  assert.ok(rest[rest.length >> 1] > -5, `median of the latency minus its parts: ${rest[rest.length >> 1]} ms`);
  assert.equal(one.stats.connects, 1);
  assert.equal(one.stats.errors, 0);
});

pageTest("sound is decoded and played in step with the picture between unmuting and muting", [], async ({ server, context }) => {
  const viewer = await open(context, { url: server.url, readPattern: true });
  const { page } = viewer;
  await drawn(viewer, 30);
  await page.evaluate(record);
  assert.equal(await page.getAttribute("#sound", "aria-pressed"), "false", "sound is muted at first");
  assert.ok(await page.isHidden("#volume"));
  await page.focus("#sound");
  await page.keyboard.press("Enter");
  await page.waitForSelector('#sound[data-state="on"]', WAIT);
  assert.ok(await page.isVisible("#volume"));
  // Three tones with the pauses between them.
  await page.waitForFunction(() => window.heard.filter(({ start }) => start).length >= 4, null, WAIT);
  await page.waitForFunction(() => window.desktopstream.stats().sound?.peak > 0.1, null, WAIT);
  await page.mouse.move(300, 300);
  await shot(page, "sound");
  const { heard, sound } = await page.evaluate(() => ({ heard: window.heard, sound: window.desktopstream.stats().sound }));
  // The decoder starts within a tone, and takes a few packets to reach its level.
  const tones = heard.slice(10).filter(({ start }) => !start);
  const wrong = tones.filter(({ hz, rms }) => Math.abs(hz - 1000) >= 20 || rms <= 0.1);
  // The server drops packets for a page that reads too slowly, as on a machine with other work.
  const gaps = heard.filter(({ start, time }, i) => i && !start && Math.abs(time - heard[i - 1].time - 10) >= 1);
  assert.ok(10 * wrong.length < tones.length, JSON.stringify(wrong));
  assert.ok(10 * gaps.length < heard.length, `gaps before ${JSON.stringify(gaps)}`);
  console.log(`sound: ${JSON.stringify(sound)}`);
  // On a machine too slow for that, sound is as early as its packets arrive.
  assert.ok(Math.abs(sound.offset_ms) < 80 || sound.delay_ms < sound.needed_ms + 30, JSON.stringify(sound));
  await page.keyboard.press("Enter");
  await page.waitForSelector('#sound[data-state="muted"]', WAIT);
  await page.waitForFunction(() => window.desktopstream.stats().sound === null, null, WAIT);
  // A picture that was captured after the server stopped sending is drawn; from then on no sound arrives.
  const count = await page.evaluate(() => window.drawn.length);
  await drawn(viewer, count + 30);
  const before = await page.evaluate(() => window.heard.length);
  await drawn(viewer, count + 60);
  assert.equal(await page.evaluate(() => window.heard.length), before);
  assertIntact(await report(viewer));
});

pageTest("page reconnects to a restarted server without a reload", [], async ({ server, context }) => {
  const viewer = await open(context, { url: server.url, readPattern: true });
  await drawn(viewer, 20);
  await viewer.page.evaluate(() => { window.loadedOnce = true; });
  await server.stop();
  await viewer.page.waitForSelector("#toast:not([hidden])", WAIT);
  assert.ok(await viewer.page.isVisible("#screen"), "the last picture stays visible");
  await shot(viewer.page, "reconnecting");
  const again = await start("--listen", server.host);
  try {
    const before = await viewer.page.evaluate(() => window.drawn.length);
    await drawn(viewer, before + 20);
    const seen = await report(viewer);
    assert.equal(seen.torn, 0);
    assert.ok(seen.frames.at(-1).seq < 10_000 && seen.stats.connects >= 2);
    assert.ok(await viewer.page.evaluate(() => window.loadedOnce), "the page was not reloaded");
    assert.ok(await viewer.page.isHidden("#toast"));
  } finally {
    await again.stop();
  }
});

pageTest("change of size and encoder keeps the connection", ["--switch-every", "3"], async ({ server, context }) => {
  const viewer = await open(context, { url: server.url, readPattern: true });
  for (const width of [1280, 640, 1280]) {
    await viewer.page.waitForFunction((w) => document.getElementById("screen").width === w, width, WAIT);
  }
  const before = await viewer.page.evaluate(() => window.drawn.length);
  await drawn(viewer, before + 10);
  const seen = await report(viewer);
  assertIntact(seen);
  assert.equal(seen.stats.connects, 1);
  assert.equal(seen.stats.errors, 0);
});

pageTest("token is requested by a form, removed from the URL and sent in no URL", ["--token", TOKEN], async ({ server, context }) => {
  const requested = [];
  context.on("request", (request) => requested.push(request.url()));
  const form = await context.newPage();
  assert.equal((await form.goto(server.url)).status(), 401);
  await shot(form, "login");
  await form.fill("#token", `${TOKEN}0`);
  await form.click("button");
  await form.waitForFunction(() => document.getElementById("message").textContent.includes("refuses"), null, WAIT);
  await form.fill("#token", TOKEN);
  await form.click("button");
  await form.waitForFunction(() => window.desktopstream?.frames > 5, null, WAIT);
  assert.equal(form.url(), server.url);
  await context.clearCookies();
  const viewer = await open(context, { url: server.url, token: TOKEN, readPattern: true });
  await drawn(viewer, 10);
  assertIntact(await report(viewer));
  assert.equal(viewer.page.url(), server.url);
  assert.equal(await viewer.page.evaluate(() => document.cookie), "", "scripts cannot read the cookie");
  const [cookie] = await context.cookies();
  assert.ok(cookie.httpOnly && cookie.sameSite === "Strict" && !cookie.value.includes(TOKEN), JSON.stringify(cookie));
  // A browser shows the fragment in a request's URL only if it was part of the navigation; it sends none.
  assert.deepEqual(requested.filter((url) => url.split("#")[0].includes(TOKEN)), []);
});

pageTest("changed token ends the session until a link with the new one is opened in the tab", ["--token", TOKEN], async ({ server, context }) => {
  const { page } = await open(context, { url: server.url, token: TOKEN });
  await page.waitForFunction(() => window.desktopstream.frames > 5, null, WAIT);
  await page.evaluate(() => { window.beforeTheChange = true; });
  await server.stop();
  const changed = [...TOKEN].reverse().join("");
  const again = await start("--listen", server.host, "--token", changed);
  try {
    await notice(page, "token-required");
    await page.evaluate((token) => { location.hash = `token=${token}`; }, changed);
    await page.waitForFunction(() => !window.beforeTheChange && window.desktopstream?.frames > 5, null, WAIT);
    assert.equal(page.url(), server.url);
  } finally {
    await again.stop();
  }
});

pageTest("WebSocket opened by another site is refused", ["--token", TOKEN], async ({ server, context }) => {
  const own = await context.newPage();
  await own.goto(`${server.url}#token=${TOKEN}`);
  await own.waitForFunction(() => window.desktopstream?.frames > 0, null, WAIT);
  const other = await start();
  try {
    const elsewhere = await context.newPage();
    await elsewhere.goto(other.url);
    const outcome = await elsewhere.evaluate((url) => new Promise((resolve) => {
      const socket = new WebSocket(url);
      socket.onopen = () => resolve("open");
      socket.onerror = () => resolve("refused");
    }), `ws://${server.host}/ws`).catch(() => "forbidden by policy");
    assert.notEqual(outcome, "open");
  } finally {
    await other.stop();
  }
});

pageTest("viewer over the maximum is rejected and connects once another one leaves", ["--max-viewers", "1"], async ({ server, context }) => {
  const first = await open(context, { url: server.url });
  await drawn(first, 5);
  const second = await open(context, { url: server.url });
  await notice(second.page, "rejected");
  await first.page.close();
  await drawn(second, 5);
});

/**
 * Opens a viewer, plays the part of the server in messages about input, and returns the function that sends one, with the
 * events that the page sends.
 */
async function openWithInput(context, server) {
  let toPage = null;
  const events = [], actions = [];
  await context.routeWebSocket(/\/ws$/, (socket) => {
    const upstream = socket.connectToServer();
    toPage = socket;
    socket.onMessage((message) => {
      const parsed = JSON.parse(message);
      if (parsed.type === "input") events.push(...parsed.events);
      else if (parsed.type === "control") actions.push(parsed.action);
      else upstream.send(message);
    });
    upstream.onMessage((message) => { if (typeof message !== "string" || JSON.parse(message).type !== "input") socket.send(message); });
  });
  const viewer = await open(context, { url: server.url });
  await drawn(viewer, 5);
  const layouts = [["us", "English (US)"], ["de", "German"]];
  const input = (info) => toPage.send(JSON.stringify({
    type: "input", you: 1, allowed: true, policy: "Exclusive", controller: null, requests: [], backend: "virtual-keyboard-v1", reason: "", layouts, ...info,
  }));
  const until = async (what, reached) => {
    for (const end = Date.now() + WAIT.timeout; !reached(); await viewer.page.waitForTimeout(WAIT.polling)) {
      assert.ok(Date.now() < end, `${what}: ${JSON.stringify(events)}`);
    }
  };
  return { ...viewer, input, events, actions, until };
}

const button = (page, id) => page.evaluate((id) => {
  const { hidden, disabled, title, ariaLabel, ariaPressed } = document.getElementById(id);
  return { hidden, disabled, title, ariaLabel, pressed: ariaPressed === "true" };
}, id);

pageTest("control button is disabled with the reason while there is no input, and absent if control is disabled", [], async ({ server, context }) => {
  const { page, input } = await openWithInput(context, server);
  const shows = (title) => page.waitForFunction((title) => document.getElementById("control").title.includes(title), title, WAIT);
  const reason = "the compositor lacks wl_seat: use a wlroots compositor or GNOME Shell";
  input({ backend: null, reason });
  await shows(reason);
  const unavailable = await button(page, "control");
  assert.deepEqual([unavailable.hidden, unavailable.disabled], [false, true]);
  assert.ok(unavailable.ariaLabel.includes(reason));
  assert.ok((await button(page, "lock")).hidden);
  input({ allowed: false });
  await shows("viewing only");
  assert.ok((await button(page, "control")).disabled);
  input({});
  await shows("Control the desktop");
  assert.ok(!(await button(page, "control")).disabled);
  input({ policy: "None", backend: null });
  await page.waitForFunction(() => document.getElementById("control").hidden, null, WAIT);
});

pageTest("locked pointer sends distances until it is unlocked, by Esc or by the loss of control", [], async ({ server, context }) => {
  const { page, input, events, until } = await openWithInput(context, server);
  const locked = (is) => page.waitForFunction((is) => (document.pointerLockElement?.id === "screen") === is && document.getElementById("lock").ariaPressed === String(is), is, WAIT);
  input({ controller: 2 });
  await page.waitForFunction(() => document.getElementById("lock").title.includes("Take control"), null, WAIT);
  assert.ok((await button(page, "lock")).disabled, "another viewer controls the desktop");
  input({ controller: 1 });
  await page.waitForSelector("#lock:enabled", WAIT);
  // By keyboard. The option is refused, as on systems without raw motion.
  await page.evaluate(() => {
    const original = Element.prototype.requestPointerLock;
    window.requested = [];
    Element.prototype.requestPointerLock = function request(options) {
      window.requested.push(options ?? null);
      return options ? Promise.reject(new DOMException("refused", "NotSupportedError")) : original.call(this);
    };
  });
  await page.focus("#lock");
  await page.keyboard.press("Enter");
  await locked(true);
  assert.deepEqual(await page.evaluate(() => window.requested), [{ unadjustedMovement: true }, null]);
  assert.equal(await page.evaluate(() => document.activeElement.id), "keys", "keys go to the desktop");
  events.length = 0;
  await page.mouse.move(400, 300);
  await page.mouse.move(430, 340);
  await page.mouse.down();
  await page.mouse.up();
  await until("the button is released", () => events.some((event) => event.t === "button" && !event.down));
  assert.ok(events.some((event) => event.t === "motion"), JSON.stringify(events));
  assert.ok(events.every((event) => event.t !== "pointer"), `positions are meaningless: ${JSON.stringify(events)}`);
  // As by Esc, which a headless browser passes to the page.
  await page.evaluate(() => document.exitPointerLock());
  await locked(false);
  assert.ok(!(await button(page, "lock")).disabled);
  await page.focus("#lock");
  await page.keyboard.press("Enter");
  await locked(true);
  input({ controller: 2 });
  await locked(false);
});

pageTest("screen of a phone is a trackpad, and shows the keyboard by its button only", [], async ({ server, context }) => {
  const { page, input, events, until } = await openWithInput(context, server);
  input({ controller: 1 });
  await page.waitForFunction(() => document.activeElement?.id === "keys", null, WAIT);
  assert.ok((await button(page, "touch")).hidden, "no touch was seen");
  // Touches of one gesture: name of the event, finger, position, and time in ms.
  const gesture = (steps) => page.evaluate((steps) => {
    const screen = document.getElementById("screen"), now = performance.now();
    for (const [name, pointerId, clientX, clientY, at] of steps) {
      const event = new PointerEvent(`pointer${name}`, { pointerId, clientX, clientY, pointerType: "touch", bubbles: true, cancelable: true });
      Object.defineProperty(event, "timeStamp", { value: now + at });
      screen.dispatchEvent(event);
    }
  }, steps);
  const sent = async (steps, what, condition) => {
    events.length = 0;
    await gesture(steps);
    const all = () => events.filter((event) => event.t !== "layout");
    await until(what, () => condition(all()));
    return all().map(({ t, button, down, phase }) => (t === "button" ? `${button}${down ? "down" : "up"}` : t === "touch" ? phase : t));
  };
  assert.deepEqual(await sent([["down", 7, 300, 200, 0], ["up", 7, 300, 200, 50]], "a touch", (all) => all.length === 2), ["down", "up"]);
  assert.equal(await page.evaluate(() => document.getElementById("keys").inputMode), "none", "a touch opens no keyboard");
  await page.click("#osk");
  assert.deepEqual(await page.evaluate(() => [document.getElementById("keys").inputMode, document.activeElement.id]), ["text", "keys"]);

  await page.click("#touch");
  const moves = [["down", 7, 300, 200, 0], ["move", 7, 320, 190, 20], ["up", 7, 320, 190, 400]];
  assert.deepEqual(await sent(moves, "a motion", (all) => all.length === 1), ["motion"]);
  assert.deepEqual([events[0].dx, events[0].dy], [30, -15]);
  const tap = (at) => [["down", 7, 300, 200, at], ["up", 7, 301, 200, at + 60]];
  assert.deepEqual(await sent(tap(0), "a click", (all) => all.length === 2), ["0down", "0up"]);
  const two = [["down", 7, 300, 200, 0], ["down", 8, 340, 200, 5], ["up", 8, 340, 200, 60], ["up", 7, 300, 200, 65]];
  assert.deepEqual(await sent(two, "a click of the right button", (all) => all.length === 2), ["2down", "2up"]);
  const scroll = [["down", 7, 300, 200, 0], ["down", 8, 340, 200, 5], ["move", 8, 340, 160, 30], ["up", 8, 340, 160, 400], ["up", 7, 300, 200, 405]];
  assert.deepEqual(await sent(scroll, "a scroll", (all) => all.length === 1), ["scroll"]);
  assert.equal(events[0].dy, 40);
  const drag = [...tap(0), ["down", 7, 300, 200, 100], ["move", 7, 400, 200, 150], ["up", 7, 400, 200, 600]];
  assert.deepEqual(await sent(drag, "a drag", (all) => all.some((event) => event.button === 0 && !event.down)), ["0down", "motion", "0up"]);
  // The mode is kept.
  assert.equal(await page.evaluate(() => localStorage.getItem("touch")), "trackpad");
});

pageTest("text of an input method is sent once, whatever the order of events", [], async ({ server, context }) => {
  const { page, input, events, until } = await openWithInput(context, server);
  input({ controller: 1 });
  await page.waitForFunction(() => document.activeElement?.id === "keys", null, WAIT);
  events.length = 0;
  await page.evaluate(() => {
    const keys = document.getElementById("keys");
    const composition = (type, data) => keys.dispatchEvent(new CompositionEvent(type, { data }));
    const typed = (inputType, data, isComposing) => {
      keys.value = data ?? "";
      // InputEvent of Chromium accepts no types of other browsers.
      keys.dispatchEvent(Object.assign(new Event("input"), { inputType, data, isComposing }));
    };
    const browsers = {
      chromium: (text) => { typed("insertCompositionText", text, true); composition("compositionend", text); },
      firefox: (text) => { composition("compositionend", text); typed("insertCompositionText", text, false); },
      newerFirefox: (text) => { typed("insertCompositionText", text, true); composition("compositionend", text); typed("insertCompositionText", text, false); },
      safari: (text) => { typed("deleteCompositionText", null, false); typed("insertFromComposition", text, false); composition("compositionend", text); },
    };
    for (const [name, end] of Object.entries(browsers)) {
      composition("compositionstart", "");
      typed("insertCompositionText", "x", true);
      end(name);
    }
    typed("insertText", "é", false);
  });
  const texts = () => events.filter((event) => event.t === "text").map((event) => event.text);
  await until("the last text arrives", () => texts().includes("é"));
  assert.deepEqual(texts(), ["chromium", "firefox", "newerFirefox", "safari", "é"]);
  assert.equal(await page.inputValue("#keys"), "");
  // Chromium's own events.
  const session = await context.newCDPSession(page);
  await session.send("Input.imeSetComposition", { text: "に", selectionStart: 1, selectionEnd: 1 });
  await session.send("Input.insertText", { text: "日本" });
  await until("the composed text arrives", () => texts().length > 5);
  assert.deepEqual(texts().slice(5), ["日本"]);
});

pageTest("undecodable keyframe is skipped without a reconnection", [], async ({ server, context }) => {
  let toPage = null;
  await context.routeWebSocket(/\/ws$/, (socket) => {
    const upstream = socket.connectToServer();
    toPage = socket;
    socket.onMessage((message) => upstream.send(message));
    upstream.onMessage((message) => socket.send(message));
  });
  const viewer = await open(context, { url: server.url });
  await drawn(viewer, 10);
  // An IDR with an invalid PPS and an invalid slice.
  const undecodable = Buffer.alloc(200, 0x5a);
  undecodable.fill(0, 0, 28);
  undecodable[0] = 1;
  undecodable[1] = 1;
  Buffer.from([0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0, 0, 0, 1, 0x68, 0x5a, 0, 0, 0, 1, 0x65]).copy(undecodable, 28);
  toPage.send(undecodable);
  toPage.send(Buffer.from("shorter than a header"));
  await viewer.page.waitForFunction(() => window.desktopstream.stats().errors > 0, null, WAIT);
  const before = await viewer.page.evaluate(() => window.drawn.length);
  await drawn(viewer, before + 20);
  const { stats } = await report(viewer);
  assert.equal(stats.connects, 1, "the connection is kept");
});

pageTest("MP4 stream plays by Media Source Extensions", [], async ({ server, context }) => {
  const page = await context.newPage();
  await page.goto(server.url);
  const played = await page.evaluate(async () => {
    const { info } = await new Promise((resolve) => {
      const timer = setInterval(() => { const s = desktopstream.stats(); if (s.info?.codec) { clearInterval(timer); resolve(s); } }, 50);
    });
    const source = new MediaSource(), video = document.createElement("video");
    video.muted = true;
    video.src = URL.createObjectURL(source);
    await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    const buffer = source.addSourceBuffer(`video/mp4; codecs="${info.codec}"`);
    const reader = (await fetch("stream.mp4")).body.getReader();
    const until = performance.now() + 30_000;
    while (performance.now() < until) {
      const { value, done } = await reader.read();
      if (done) break;
      buffer.appendBuffer(value);
      await new Promise((resolve, reject) => { buffer.onupdateend = resolve; buffer.onerror = reject; });
      if (video.paused) video.play().catch(() => {});
      if (video.currentTime > 2) break;
    }
    await reader.cancel();
    const gaps = video.buffered.length;
    return { time: video.currentTime, frames: video.getVideoPlaybackQuality().totalVideoFrames, gaps, error: video.error?.message };
  });
  assert.equal(played.error, undefined);
  assert.ok(played.time > 2 && played.frames > 10, JSON.stringify(played));
  assert.equal(played.gaps, 1, "the buffered range has no gaps");
});

const outside = Object.values(networkInterfaces()).flat().find((address) => address.family === "IPv4" && !address.internal)?.address;

test("page without a secure context explains it and plays the MP4 stream", { ...TEST_TIMEOUT, skip: !outside && "this machine has no address but loopback" }, async () => {
  const server = await start("--listen", "0.0.0.0:0", "--insecure-no-viewer-auth");
  try {
    await withBrowser(async (context) => {
      const page = await context.newPage();
      await page.goto(`http://${outside}:${server.host.split(":")[1]}/`);
      const card = page.locator("#notice .card").first();
      await notice(page, "insecure-context");
      assert.match(await card.innerText(), /kubectl port-forward[\s\S]*http:\/\/localhost:8080/);
      await shot(page, "insecure");
      await card.getByRole("button").click();
      await page.waitForFunction(() => document.querySelector("video")?.currentTime > 0.5, null, WAIT);
    });
  } finally {
    await server.stop();
  }
});

pageTest("page fits the screen of a phone", ["--frame-path", "pixels"], async ({ server, context }) => {
  const viewer = await open(context, { url: server.url, readPattern: true });
  await drawn(viewer, 10);
  await viewer.page.touchscreen.tap(195, 200);   // shows the controls, which hide without input
  await viewer.page.click("#info");
  await viewer.page.waitForFunction(() => document.getElementById("v-path").textContent === "pixels", null, WAIT);
  await shot(viewer.page, "phone");
  const { width, overflow } = await viewer.page.evaluate(() => ({
    width: document.getElementById("screen").getBoundingClientRect().width,
    overflow: document.documentElement.scrollWidth > innerWidth,
  }));
  assert.ok(width <= 390 && width > 380, `the picture fills the width of the screen: ${width}`);
  assert.equal(overflow, false);
  assertIntact(await report(viewer));
}, { width: 390, height: 780, scale: 2, mobile: true });
