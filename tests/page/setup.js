// Once for all tests: the engine, the tables, rows of known truth, and a dashboard. The tests find them in the environment.
import { migrate, startDashboard, startEngine } from "./parts.js";
import { seed } from "./seed.js";

export default async function setup() {
  const engine = await startEngine();
  for (const database of ["default", "empty", "broken"]) migrate(engine.url, database);
  await seed(engine.url);
  const dashboard = await startDashboard(engine.url);
  Object.assign(process.env, { CLICKHOUSE: engine.url, DASHBOARD: dashboard.url });
  return async () => {
    await dashboard.stop();
    await engine.stop();
  };
}
