//! Tests of the whole store.

mod damage;
mod driven;
mod engine;
mod face;
mod simulation;
