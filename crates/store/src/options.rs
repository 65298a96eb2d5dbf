//! What an operator may set.

use std::time::Duration;

use crate::error::OpenError;

/// Sizes and limits of a store. The defaults suit a server from a small virtual machine up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Octets of a segment file of the log. 64 MiB.
    pub segment_size: u64,
    /// Content up to this size is kept in memory until it is forgotten and written as one record; larger content streams
    /// to disk while it arrives. 1 MiB.
    pub inline_limit: u64,
    /// Octets of content in memory: that which arrives and that which waits for its first attempt. 16 MiB.
    pub content_memory: u64,
    /// Octets of the index that are cached. 8 MiB.
    pub index_cache: u64,
    /// No new mail when fewer octets than this are free on the disk. 256 MiB.
    pub floor_bytes: u64,
    /// No new mail when fewer inodes than this are free. 1000.
    pub floor_inodes: u64,
    /// The longest time between checkpoints. 5 s.
    pub checkpoint_every: Duration,
    /// A checkpoint is made early when this many messages changed and survived. 8,192.
    pub checkpoint_messages: usize,
    /// A checkpoint is made early when the log grew by this many octets, which bounds the replay at the next start. 128 MiB.
    pub checkpoint_bytes: u64,
    /// No new mail when this many changed messages wait for a checkpoint, which bounds the memory they take. 65,536.
    pub lag_messages: usize,
    /// How long changes may wait for company before they are written. New messages never wait. 20 ms.
    pub gather: Duration,
    /// Preallocated segments in reserve, in which changes go on being written when the disk is full. 2.
    pub reserve: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            inline_limit: 1 << 20,
            content_memory: 16 << 20,
            index_cache: 8 << 20,
            floor_bytes: 256 << 20,
            floor_inodes: 1000,
            checkpoint_every: Duration::from_secs(5),
            checkpoint_messages: 8_192,
            checkpoint_bytes: 128 << 20,
            lag_messages: 65_536,
            gather: Duration::from_millis(20),
            reserve: 2,
        }
    }
}

impl Options {
    /// Small segments and frequent checkpoints, so that tests meet every turn of the road.
    pub fn small() -> Self {
        Self {
            segment_size: 256 << 10,
            inline_limit: 32 << 10,
            floor_bytes: 0,
            floor_inodes: 0,
            index_cache: 1 << 20,
            checkpoint_messages: 64,
            lag_messages: 4096,
            checkpoint_bytes: 512 << 10,
            gather: Duration::from_millis(1),
            ..Self::default()
        }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if self.segment_size < 64 << 10 || !self.segment_size.is_multiple_of(4096) || self.segment_size > 4 << 30 {
            return Err(OpenError::Options("segment size must be 64 KiB to 4 GiB and a multiple of 4096"));
        }
        if self.inline_limit > self.segment_size / 4 {
            return Err(OpenError::Options(
                "the limit for content in one record must be at most a quarter of a segment",
            ));
        }
        if self.checkpoint_messages == 0 || self.lag_messages < self.checkpoint_messages {
            return Err(OpenError::Options("checkpoint and lag limits must be at least one, and lag the larger"));
        }
        Ok(())
    }

    /// Octets of a record of streamed content.
    pub(crate) fn chunk_size(&self) -> usize {
        (self.inline_limit / 4).clamp(4 << 10, 256 << 10) as usize
    }
}
