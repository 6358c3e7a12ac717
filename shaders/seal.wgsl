// chain[place] = own, last of all that a part of a pass has to do.
//
// `witness` is what the last dispatch had bound. It is bound here as if it were written to, as a driver that puts commands in an order of its
// own then keeps these behind that dispatch.

struct Params { place: u32, own: u32, spoilt: u32 }
var<immediate> params: Params; // `spoilt` is 0

@group(0) @binding(0) var<storage, read_write> chain: array<u32>;
@group(0) @binding(1) var<storage, read_write> witness: array<u32>;

@compute @workgroup_size(1)
fn seal() {
    chain[params.place] = params.own;
    if params.spoilt != 0u {
        witness[0] = params.spoilt;
    }
}
