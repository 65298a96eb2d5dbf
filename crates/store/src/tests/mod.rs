//! Tests of the whole store.

mod damage;
mod engine;
mod face;
mod simulation;
