//! A fleet of model deployments, simulated: what real traces ask of it goes in, what its producers would say comes out.
//!
//! # What is real
//!
//! When requests arrive ([`arrivals`]) and how many tokens they hold and get: from the two Azure traces request by request, for
//! the 73 ServeGen clients by their measured counts and fitted spreads, with token counts lent by the Azure traces.
//!
//! # What is modelled
//!
//! Everything behind the front door. A [`deployment`] has replicas with a limited number of places and one queue, first in
//! first out, of limited length; the request that finds it full is refused (503). A request takes as long as its tokens say,
//! and longer in a fuller replica. Clients leave when their patience ends (499), time limits end others (504), the model's
//! code fails now and then (500), and wrong requests are rejected (4xx). An [`autoscaler`] adds replicas, which wait for a
//! machine, load the model, and serve; the requests that wait for the first of them have a cold start. A [`replica`]'s CPU,
//! memory and GPU follow from how full it is. Restarts break off what runs (502).
//!
//! # What never happens
//!
//! Nothing here reads a clock, does I/O or draws chance from outside: the same seed, start and speed give the same messages,
//! however the time up to a moment is cut into steps.

pub mod arrivals;
pub mod autoscaler;
pub mod deployment;
pub mod profile;
pub mod random;
pub mod replica;
pub mod request;
