-- Every deployment that was ever seen, with its facts. All facts are key, so that a promotion or a
-- rename is a second row; inserts are idempotent, so no ledger is needed. Facts are empty where only
-- requests have been seen.

CREATE TABLE IF NOT EXISTS deployments {on_cluster}
(
    deployment_id   String,
    deployment_name String,
    model_id        String,
    model_name      String,
    environment     String,
    -- 'production', 'development' or ''
    kind            String,
    instance_type   String,
    first_seen      SimpleAggregateFunction(min, DateTime('UTC')),
    last_seen       SimpleAggregateFunction(max, DateTime('UTC'))
)
ENGINE = {engine}
ORDER BY (deployment_id, deployment_name, model_id, model_name, environment, kind, instance_type)
SETTINGS {settings};
