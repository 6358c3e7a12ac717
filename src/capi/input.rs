//! Arguments as C gives them: text, arrays, places for results, and structs that grow.

use std::ffi::{CStr, c_char};

use super::failure::{Failure, Result};
use super::status::retto_status;

/// Text: `length` bytes of UTF-8, or RETTO_NUL_TERMINATED for text that ends in NUL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_string {
    pub data: *const c_char,
    pub length: usize,
}

/// What the header calls RETTO_NUL_TERMINATED.
pub(super) const NUL_TERMINATED: usize = usize::MAX;

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(retto_status::RETTO_INVALID_ARGUMENT, message)
}

/// # Safety
/// `data` is NULL or points to `length` bytes, or to text that ends in NUL; they live as long as `'a`.
pub(super) unsafe fn optional_text<'a>(what: &str, data: *const c_char, length: usize) -> Result<Option<&'a str>> {
    if data.is_null() {
        return match length {
            0 | NUL_TERMINATED => Ok(None),
            _ => Err(invalid(format!("{what} is NULL and has a length of {length}"))),
        };
    }
    let bytes = if length == NUL_TERMINATED {
        // SAFETY: as the caller promises.
        unsafe { CStr::from_ptr(data) }.to_bytes()
    } else {
        // SAFETY: as the caller promises; `slice` checks the length.
        unsafe { slice(what, data.cast::<u8>(), length)? }
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let at = error.valid_up_to();
            Err(Failure::new(retto_status::RETTO_INVALID_UTF8, format!("{what} is not UTF-8 at byte {at}")))
        }
    }
}

/// # Safety
/// As [`optional_text`].
pub(super) unsafe fn text<'a>(what: &str, data: *const c_char, length: usize) -> Result<&'a str> {
    // SAFETY: as the caller promises.
    unsafe { optional_text(what, data, length) }?.ok_or_else(|| invalid(format!("{what} is NULL")))
}

/// A path, which is not empty.
///
/// # Safety
/// As [`optional_text`].
pub(super) unsafe fn path<'a>(what: &str, data: *const c_char, length: usize) -> Result<&'a str> {
    // SAFETY: as the caller promises.
    match unsafe { text(what, data, length) }? {
        "" => Err(invalid(format!("{what} is empty"))),
        path => Ok(path),
    }
}

/// # Safety
/// As [`slice`], and each text as [`optional_text`].
pub(super) unsafe fn texts<'a>(what: &str, data: *const retto_string, count: usize) -> Result<Vec<&'a str>> {
    // SAFETY: as the caller promises.
    let strings = unsafe { slice(what, data, count)? };
    let each = |(index, string): (usize, &retto_string)| {
        // SAFETY: as the caller promises.
        unsafe { text(&format!("{what}[{index}]"), string.data, string.length) }
    };
    strings.iter().enumerate().map(each).collect()
}

/// # Safety
/// `data` is NULL or points to `count` values that live as long as `'a`.
pub(super) unsafe fn slice<'a, T>(what: &str, data: *const T, count: usize) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(invalid(format!("{what} is NULL and has a length of {count}")));
    }
    if !data.is_aligned() || count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(invalid(format!("{what} cannot be {count} values at {data:p}")));
    }
    // SAFETY: as the caller promises; alignment and size were checked.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// A place for a result, known not to be NULL.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    pub(super) fn new(what: &str, place: *mut T) -> Result<Self> {
        Self::optional(place).ok_or_else(|| invalid(format!("{what} is NULL, or not aligned: nowhere to put a result")))
    }

    pub(super) fn optional(place: *mut T) -> Option<Self> {
        (!place.is_null() && place.is_aligned()).then_some(Self(place))
    }

    /// # Safety
    /// The place holds a `T`, initialised or not.
    pub(super) unsafe fn write(self, value: T) {
        // SAFETY: as the caller promises; `new` has seen to NULL and alignment.
        unsafe { self.0.write(value) }
    }
}

/// A struct that begins with a `struct_size`, which may be that of an older or a newer header: fields are only ever appended.
///
/// # Safety
/// The type is `repr(C)`, begins with a `u32`, and any bytes are a value of it.
pub(super) unsafe trait Versioned: Copy {
    const NAME: &'static str;
    fn defaults() -> Self;
}

/// No struct of ours is ever this large: such a size is memory nobody initialised.
const LARGEST: usize = 1 << 16;

/// # Safety
/// `place` is NULL or points to at least four bytes.
unsafe fn size_of_versioned<T: Versioned>(place: *const T) -> Result<usize> {
    if place.is_null() || !place.is_aligned() {
        return Err(invalid(format!("the {} is NULL or not aligned", T::NAME)));
    }
    // SAFETY: as the caller promises; `struct_size` comes first.
    let size = unsafe { place.cast::<u32>().read() } as usize;
    check_size::<T>(size)
}

fn check_size<T: Versioned>(size: usize) -> Result<usize> {
    if !(size_of::<u32>()..=LARGEST).contains(&size) {
        let reason = format!("{} has a struct_size of {size}: set it with sizeof, or use the _init function", T::NAME);
        return Err(Failure::new(retto_status::RETTO_ABI_MISMATCH, reason));
    }
    Ok(size)
}

/// What a caller's options say, with the defaults for what its header does not know.
///
/// # Safety
/// `place` is NULL, which means the defaults, or points to as many bytes as its `struct_size` says.
pub(super) unsafe fn read<T: Versioned>(place: *const T) -> Result<T> {
    let mut value = T::defaults();
    if place.is_null() {
        return Ok(value);
    }
    // SAFETY: as the caller promises.
    let size = unsafe { size_of_versioned(place)? };
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(place.cast::<u8>(), size) };
    if let Some(unknown) = bytes.get(size_of::<T>()..)
        && unknown.iter().any(|&byte| byte != 0)
    {
        let reason =
            format!("{} sets options this library, version {}, does not have", T::NAME, env!("CARGO_PKG_VERSION"));
        return Err(Failure::new(retto_status::RETTO_ABI_MISMATCH, reason));
    }
    let known = size.min(size_of::<T>());
    // SAFETY: both hold `known` bytes, and any bytes are a value.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast::<u8>(), known) };
    Ok(value)
}

/// Fills a caller's struct, as much of it as its header knows. `struct_size` stays.
///
/// # Safety
/// `place` points to as many bytes as its `struct_size` says.
pub(super) struct OutStruct<T> {
    place: *mut T,
    size: usize,
}

impl<T: Versioned> OutStruct<T> {
    /// # Safety
    /// `place` is NULL or points to as many bytes as its `struct_size` says.
    pub(super) unsafe fn new(place: *mut T) -> Result<Self> {
        // SAFETY: as the caller promises.
        Ok(Self { place, size: unsafe { size_of_versioned(place)? } })
    }

    /// The same, where NULL means that the result is not wanted.
    ///
    /// # Safety
    /// As [`OutStruct::new`].
    pub(super) unsafe fn optional(place: *mut T) -> Result<Option<Self>> {
        // SAFETY: as the caller promises.
        if place.is_null() { Ok(None) } else { unsafe { Self::new(place) }.map(Some) }
    }

    pub(super) fn write(self, value: &T) {
        let Self { place, size } = self;
        let first = size_of::<u32>();
        let (from, to) = ((&raw const *value).cast::<u8>(), place.cast::<u8>());
        // SAFETY: `new` was promised `size` bytes; `struct_size`, the first four, is the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from.add(first), to.add(first), size.min(size_of::<T>()) - first) };
    }
}

/// Sets a caller's struct to the defaults, as much of it as its header knows, and what it knows beyond to zero.
///
/// # Safety
/// `place` is NULL or points to `struct_size` bytes.
pub(super) unsafe fn init<T: Versioned>(place: *mut T, struct_size: usize) -> Result<()> {
    if place.is_null() || !place.is_aligned() {
        return Err(invalid(format!("the {} is NULL or not aligned", T::NAME)));
    }
    let size = check_size::<T>(struct_size)?;
    let value = T::defaults();
    // SAFETY: the caller has `size` bytes there.
    unsafe {
        place.cast::<u8>().write_bytes(0, size);
        std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), place.cast::<u8>(), size.min(size_of::<T>()));
        place.cast::<u32>().write(size as u32);
    }
    Ok(())
}

/// Where `struct_size` has to stand.
macro_rules! versioned {
    ($type:ident, $defaults:expr) => {
        const _: () = assert!(std::mem::offset_of!($type, struct_size) == 0);
        // SAFETY: `repr(C)`, made of numbers and pointers, `struct_size` first.
        unsafe impl Versioned for $type {
            const NAME: &'static str = stringify!($type);
            fn defaults() -> Self {
                // SAFETY: numbers and pointers may all be zero.
                let zero: Self = unsafe { std::mem::zeroed() };
                let defaults: fn(Self) -> Self = $defaults;
                defaults(zero)
            }
        }
    };
}
pub(super) use versioned;

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Known {
        struct_size: u32,
        first: u32,
        second: u64,
    }
    versioned!(Known, |zero| Known { first: 7, second: 8, ..zero });

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Newer {
        known: Known,
        third: u64,
    }

    #[test]
    fn structs_of_older_and_newer_headers_fit() {
        let mut newer = Newer { known: Known { struct_size: 0, first: 1, second: 2 }, third: 3 };
        let place = (&raw mut newer).cast::<Known>();
        // SAFETY: each size is within `newer`.
        unsafe {
            init(place, size_of::<Newer>()).ok().unwrap();
            assert_eq!((newer.known, newer.third), (Known { struct_size: 24, first: 7, second: 8 }, 0));
            assert_eq!(read(place).ok().unwrap().second, 8);
            newer.third = 1;
            assert_eq!(read(place).err().unwrap().status, retto_status::RETTO_ABI_MISMATCH);

            // One field shorter: what comes after it is not touched and not read.
            newer.known.second = 99;
            init(place, 8).ok().unwrap();
            assert_eq!((newer.known, newer.third), (Known { struct_size: 8, first: 7, second: 99 }, 1));
            newer.known.first = 5;
            assert_eq!(read(place).ok().unwrap(), Known { struct_size: 8, first: 5, second: 8 });
            OutStruct::new(place).ok().unwrap().write(&Known { struct_size: 0, first: 3, second: 4 });
            assert_eq!(newer.known, Known { struct_size: 8, first: 3, second: 99 });

            for size in [0, 3, LARGEST + 1] {
                place.cast::<u32>().write(size as u32);
                assert!(read(place).is_err() && init(place, size).is_err() && OutStruct::new(place).is_err());
            }
        }
    }
}
