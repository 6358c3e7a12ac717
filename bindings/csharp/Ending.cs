using System;
using System.Collections.Generic;
using System.Threading;

namespace Retto
{
    /// <summary>At the end of the process, or of the domain, waits for calls of background threads: the driver is taken down then, and what
    /// still uses it would crash. Runs are cancelled for it.</summary>
    internal static class Ending
    {
        /// <summary>A step of a large model on a slow adapter takes seconds.</summary>
        private static readonly TimeSpan patience = TimeSpan.FromSeconds(30);

        private static readonly object changed = new object();
        /// <summary>In use by so many calls.</summary>
        private static readonly Dictionary<TrainerHandle, int> trainers = new Dictionary<TrainerHandle, int>();
        private static int running;
        private static volatile bool ended;

        /// <summary>Calls of this thread that have not returned: of one that ends the process from a callback.</summary>
        [ThreadStatic]
        private static int own;

        static Ending()
        {
            AppDomain.CurrentDomain.ProcessExit += (sender, arguments) => End();
            AppDomain.CurrentDomain.DomainUnload += (sender, arguments) => End();
        }

        /// <summary>A call begins; a trainer is cancelled if the end comes meanwhile.</summary>
        public static void Enter(TrainerHandle trainer = null)
        {
            lock (changed)
            {
                if (!ended || own > 0 || !Thread.CurrentThread.IsBackground)
                {
                    running++;
                    own++;
                    if (trainer == null) return;
                    int calls;
                    trainers.TryGetValue(trainer, out calls);
                    trainers[trainer] = calls + 1;
                    return;
                }
            }
            // What a background thread would do next is of no use any more, and an exception that it does not expect would end the process in
            // another way.
            Thread.Sleep(Timeout.Infinite);
        }

        /// <summary>Whether what tells of itself is to end, as the process does.</summary>
        public static bool Ended => ended;

        public static void Leave(TrainerHandle trainer = null)
        {
            lock (changed)
            {
                running--;
                own--;
                if (trainer != null && --trainers[trainer] == 0) trainers.Remove(trainer);
                Monitor.PulseAll(changed);
            }
        }

        private static void End()
        {
            var until = DateTime.UtcNow + patience;
            lock (changed)
            {
                ended = true;
                foreach (var trainer in trainers.Keys)
                {
                    try
                    {
                        IntPtr error;
                        Native.retto_trainer_cancel(trainer, out error);
                        Native.Take(error);
                    }
                    catch (ObjectDisposedException)
                    {
                        // Its call is about to return.
                    }
                }
                while (running > own)
                {
                    var left = until - DateTime.UtcNow;
                    if (left <= TimeSpan.Zero || !Monitor.Wait(changed, left)) return;
                }
            }
        }
    }
}
