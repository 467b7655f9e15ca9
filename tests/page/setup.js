// Once for all tests: the engine, the tables, rows of known truth, and a dashboard. The tests find them in the environment.
// Whatever fails, before, between or at the end, what was started is stopped.
import { migrate, startDashboard, startEngine } from "./parts.js";
import { seed } from "./seed.js";

export default async function setup() {
  const started = [];
  // the last started is stopped first
  const teardown = async () => {
    const failed = [];
    while (started.length) await started.pop().stop().catch((error) => failed.push(error));
    if (failed.length) throw new AggregateError(failed, failed.map(String).join("; "));
  };
  try {
    const engine = await startEngine();
    started.push(engine);
    for (const database of ["default", "empty", "broken"]) migrate(engine.url, database);
    await seed(engine.url);
    const dashboard = await startDashboard(engine.url);
    started.push(dashboard);
    Object.assign(process.env, { CLICKHOUSE: engine.url, DASHBOARD: dashboard.url });
  } catch (error) {
    await teardown();
    throw error;
  }
  return teardown;
}
