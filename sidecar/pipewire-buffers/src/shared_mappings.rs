//! Memory of this process that is shared with other programs, read from `/proc/self/maps` (proc_pid_maps(5)).
//!
//! libpipewire up to 1.6 takes the offset and the size of a buffer's metadata from the daemon without a check against the
//! memory that it mapped (`client_node_port_use_buffers` in `module-client-node/remote-node.c`).

use std::io;
use std::ops::Range;

/// Address ranges of the mappings that can be read and are shared, one per mapping.
#[derive(Debug)]
pub struct SharedMappings(Vec<Range<usize>>);

impl SharedMappings {
    /// Reads the mappings of this process.
    ///
    /// # Errors
    /// `/proc` is not readable.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/maps")?))
    }

    /// Parses the text of `/proc/self/maps`.
    pub fn parse(maps: &str) -> Self {
        let range = |line: &str| {
            let (addresses, rest) = line.split_once(' ')?;
            let (start, end) = addresses.split_once('-')?;
            let permissions = rest.as_bytes().get(..4)?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            (permissions[0] == b'r' && permissions[3] == b's').then_some(address(start)?..address(end)?)
        };
        Self(maps.lines().filter_map(range).collect())
    }

    /// True if the `size` bytes at `address` are in one of the mappings.
    pub fn contain(&self, address: usize, size: usize) -> bool {
        let Some(end) = address.checked_add(size) else { return false };
        self.0.iter().any(|range| range.start <= address && end <= range.end)
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "a mapping to look for")]
mod tests {
    use super::*;

    #[test]
    fn only_readable_shared_mappings_contain_addresses_and_none_beyond_its_end() {
        let maps = SharedMappings::parse(
            "00001000-00003000 rw-s 00000000 00:01 7    /memfd:pipewire (deleted)\n\
             00003000-00004000 r--s 00000000 00:01 8    /memfd:other\n\
             00005000-00006000 rw-p 00000000 00:00 0    [heap]\n\
             00007000-00008000 -w-s 00000000 00:01 9\n\
             broken\n",
        );
        assert!(maps.contain(0x1000, 0x2000) && maps.contain(0x2fff, 1) && maps.contain(0x3000, 0x1000));
        assert!(!maps.contain(0x2fff, 2), "it crosses into another mapping");
        assert!(!maps.contain(0x5000, 1), "private memory");
        assert!(!maps.contain(0x7000, 1), "not readable");
        assert!(!maps.contain(0xfff, 1) && !maps.contain(0x1000, usize::MAX));
    }

    #[test]
    fn own_shared_memory_is_found_and_the_heap_is_not() {
        const SIZE: usize = 1 << 16;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice, without a file.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ, flags, -1, 0) };
        assert_ne!(address, libc::MAP_FAILED);
        let maps = SharedMappings::read().expect("/proc");
        assert!(maps.contain(address.addr(), SIZE));
        let heap = Box::new(0_u8);
        assert!(!maps.contain(std::ptr::from_ref(&*heap).addr(), 1));
        // SAFETY: the mapping was made above, and nothing refers to it.
        unsafe { libc::munmap(address, SIZE) };
        assert!(!SharedMappings::read().expect("/proc").contain(address.addr(), SIZE));
    }
}
