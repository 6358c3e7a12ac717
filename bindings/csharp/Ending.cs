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
        private static readonly HashSet<TrainerHandle> trainers = new HashSet<TrainerHandle>();
        private static int running;
        private static bool ended;

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
                if (ended) throw new OperationCanceledException("the process is ending");
                running++;
                own++;
                if (trainer != null) trainers.Add(trainer);
            }
        }

        public static void Leave(TrainerHandle trainer = null)
        {
            lock (changed)
            {
                running--;
                own--;
                if (trainer != null) trainers.Remove(trainer);
                Monitor.PulseAll(changed);
            }
        }

        private static void End()
        {
            var until = DateTime.UtcNow + patience;
            lock (changed)
            {
                ended = true;
                foreach (var trainer in trainers)
                {
                    IntPtr error;
                    Native.retto_trainer_cancel(trainer, out error);
                    Native.Take(error);
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
