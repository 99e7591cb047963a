// Drives Chromium for the tests: one JSON request per line on stdin, one answer per line on stdout.
// Usage: node driver.mjs FOLDER_WITH_NODE_MODULES CHROMIUM

import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";

const [folder, chromium] = process.argv.slice(2);
const playwright = createRequire(path.join(folder, "any.js"))("playwright-core");
const pages = new Map(); // by the tests' names: {context, page, log, profile}

// What the page says, without what the network says: other hosts are out of reach on purpose.
function record(page, log) {
  page.on("console", (message) => {
    const { url } = message.location();
    log.push({ type: message.type(), text: message.text().slice(0, 2000), url });
  });
  page.on("pageerror", (error) => {
    log.push({ type: "pageerror", text: String(error.stack ?? error).slice(0, 2000), url: "" });
  });
}

const requests = {
  async open({ name, url, scale = 1, width = 1500, height = 1100 }) {
    const profile = fs.mkdtempSync(path.join(os.tmpdir(), "lags-chromium-"));
    const context = await playwright.chromium.launchPersistentContext(profile, {
      executablePath: chromium,
      headless: true,
      viewport: { width, height },
      deviceScaleFactor: scale,
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
        ["background-networking", "component-update", "sync"].map((name) => `--disable-${name}`),
      ),
    });
    const page = context.pages()[0] ?? (await context.newPage());
    const log = [];
    record(page, log);
    const local = ["127.0.0.1", "localhost", ""];
    await page.route("**/*", (route) => {
      const { hostname } = new URL(route.request().url());
      return local.includes(hostname) ? route.continue() : route.abort();
    });
    pages.set(name, { context, page, log, profile });
    await page.goto(url, { timeout: 120000 });
  },
  async evaluate({ name, code, value }) {
    // The tests' own code, in the page under test.
    return await pages.get(name).page.evaluate(`(${code})(${JSON.stringify(value ?? null)})`);
  },
  async wait({ name, code, value, seconds }) {
    const call = `(${code})(${JSON.stringify(value ?? null)})`;
    const options = { timeout: seconds * 1000, polling: 50 };
    await pages.get(name).page.waitForFunction(call, null, options);
  },
  async reload({ name }) {
    await pages.get(name).page.reload({ timeout: 120000 });
  },
  async move({ name, x, y }) {
    await pages.get(name).page.mouse.move(x, y);
  },
  async click({ name, x, y }) {
    await pages.get(name).page.mouse.click(x, y);
  },
  async doubleClick({ name, x, y }) {
    await pages.get(name).page.mouse.dblclick(x, y);
  },
  async type({ name, text }) {
    await pages.get(name).page.keyboard.type(text);
  },
  async press({ name, key }) {
    await pages.get(name).page.keyboard.press(key);
  },
  async wheel({ name, by }) {
    await pages.get(name).page.mouse.wheel(0, by);
  },
  async screenshot({ name, file, clip }) {
    await pages.get(name).page.screenshot({ path: file, clip: clip ?? undefined });
  },
  async log({ name }) {
    return pages.get(name).log;
  },
  async close({ name }) {
    const { context, profile } = pages.get(name);
    pages.delete(name);
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { request, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await requests[request](given)) ?? null };
  } catch (error) {
    answer = { error: String(error.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
for (const name of [...pages.keys()]) await requests.close({ name });
