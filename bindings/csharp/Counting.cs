using System;
using System.Runtime.InteropServices;

namespace Retto
{
    /// <summary>A callback that is told how much of a call is done, and what it threw.</summary>
    internal sealed class Counting : IDisposable
    {
        /// <summary>Kept here, so that it is not collected while C has it.</summary>
        private static readonly Native.CountCallback callback = Tell;
        private static readonly IntPtr address = Marshal.GetFunctionPointerForDelegate(callback);

        private readonly Func<ulong, ulong, bool> progress;
        private readonly GCHandle self;
        private Exception thrown;

        public Counting(Func<ulong, ulong, bool> progress)
        {
            this.progress = progress;
            self = GCHandle.Alloc(this);
        }

        /// <summary>What C calls; NULL for null.</summary>
        public IntPtr Callback => progress == null ? IntPtr.Zero : address;

        public IntPtr Data => GCHandle.ToIntPtr(self);

        public void Call(Native.Body body)
        {
            try
            {
                Native.Call(body);
            }
            catch (RettoException) when (thrown != null)
            {
                throw new OperationCanceledException("the callback threw: " + thrown.Message, thrown);
            }
        }

        public void Dispose() => self.Free();

        [MonoPInvokeCallback(typeof(Native.CountCallback))]
        private static int Tell(ulong done, ulong total, IntPtr data)
        {
            Counting counting = null;
            try
            {
                // No exception may pass through C.
                counting = (Counting)GCHandle.FromIntPtr(data).Target;
                return counting.progress(done, total) && !Ending.Ended ? 0 : 1;
            }
            catch (Exception error)
            {
                if (counting != null) counting.thrown = error;
                return 1;
            }
        }
    }
}
