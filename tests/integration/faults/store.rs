//! ClickHouse's data as it was some time ago, as a restored disk has it: every table is behind Kafka, and is made whole
//! from the log.

use crate::support::parts::{Parts, replace_dir};
use crate::support::probe::wait_until_ready;
use crate::support::space::Space;

use super::load::Load;

#[test]
fn older_tables_are_made_whole_from_the_log() {
    let mut parts = Parts::start();
    let space = Space::on(&parts.addresses());
    let mut load = Load::new("older", &space);
    let mut processor = space.processor(&[]);
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);
    let (data, copy) = (parts.engine_dir(), parts.copy_dir("older-tables"));
    parts.engine.kill();
    replace_dir(&data, &copy);
    parts.restart_engine();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);

    // the processor runs through it
    parts.engine.kill();
    replace_dir(&copy, &data);
    parts.restart_engine();
    load.publish(3);
    load.wait_until_right(&space, &mut [&mut processor]);

    // and now it does not
    assert!(processor.stop().success(), "{}", processor.tail());
    parts.engine.kill();
    replace_dir(&copy, &data);
    parts.restart_engine();
    load.publish(3);
    let mut processor = space.processor(&[]);
    let address = processor.address();
    load.wait_until_right(&space, &mut [&mut processor]);
    wait_until_ready(&address);
}
