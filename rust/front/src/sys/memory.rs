//! What the compiler expects of a C library. It would make calls of these very functions out of plain loops, hence the volatile
//! access; a call's bytes are a few thousand.

/// memcpy(3).
///
/// # Safety
///
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for i in 0..length {
        // SAFETY: the caller's.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
    to
}

/// memmove(3).
///
/// # Safety
///
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if from.addr() >= to.addr() {
        // SAFETY: the caller's; what is overwritten has been read.
        return unsafe { memcpy(to, from, length) };
    }
    for i in (0..length).rev() {
        // SAFETY: the caller's.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
    to
}

/// memset(3).
///
/// # Safety
///
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    for i in 0..length {
        // SAFETY: the caller's.
        unsafe { to.add(i).write_volatile(value.cast_unsigned() as u8) };
    }
    to
}

/// memcmp(3).
///
/// # Safety
///
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: the caller's.
        let (one, other) = unsafe { (one.add(i).read_volatile(), other.add(i).read_volatile()) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// `memcmp` where only equality matters.
///
/// # Safety
///
/// As `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(one, other, length) }
}

/// strlen(3).
///
/// # Safety
///
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's.
    while unsafe { string.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
