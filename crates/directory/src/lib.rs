//! Who is here: accounts, how they prove who they are, and what they may send as.

#![forbid(unsafe_code)]
