-- What was applied, and when. Name and checksum are key: the same migration applied twice is one row,
-- and two different files under one number stay visible as two.

CREATE TABLE IF NOT EXISTS modelmeter_migrations {on_cluster}
(
    version    UInt32,
    name       String,
    checksum   String,
    applied_at SimpleAggregateFunction(min, DateTime('UTC')) DEFAULT now()
)
ENGINE = {engine}
ORDER BY (version, name, checksum)
SETTINGS {settings};
