//! The queue over a real store: what a sender, a recipient and an operator see.

mod house;
mod life;
mod operators;
mod pace;
mod reports;
mod wishes;
