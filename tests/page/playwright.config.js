// Debian's chromium against the real binary and the real engine; see parts.js for how they are started.
import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  outputDir: "../../target/page/results",
  globalSetup: "./setup.js",
  // Two cores are shared with the engine.
  workers: 1,
  // a busy machine takes ten times as long as an idle one
  timeout: 180_000,
  expect: { timeout: 15_000 },
  reporter: "list",
  use: {
    viewport: { width: 1440, height: 1000 },
    launchOptions: { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] },
    screenshot: "only-on-failure",
    trace: "retain-on-failure",
  },
});
